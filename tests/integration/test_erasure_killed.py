"""An erasure killed half way has not happened; one whose scrub is killed is whole, and scrubbed later on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infrastructure.projections.registry import READ_MODELS
from infrastructure.scrubbing import Scrubbed, scrub
from tests.asking import query
from tests.command_line import environment, minutebook
from tests.forking import Forked
from tests.integration.test_erasure import OTHER, WORD, followed, talk
from tests.opened import opened_log, vault
from tests.projecting import tables_left, wait_until
from tests.serving import serving_reads

ERASE = ("erase", "gone", "--yes", "--json")
WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
OTHERS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND pid <> pg_backend_pid()"
)
KEY = "SELECT wrapped IS NULL, scrubbed_at IS NULL FROM keys.conversations WHERE conversation = 'gone'"
RECEIPTS = "SELECT count(*) FROM log WHERE type = 'conversation.erased'"


@pytest.fixture
async def url(database_url: str) -> str:
    """A database in which two have talked, and which no server has open any more."""
    async with serving_reads(database_url) as server:
        await talk(server.client, "gone", WORD)
        await talk(server.client, "kept", OTHER)
        await followed(database_url)
    return database_url


@contextmanager
def erasing(folder: Path, url: str) -> Iterator[None]:
    """Erase in another process, and kill it at the end of the block."""
    with tempfile.TemporaryFile() as said:
        process = Forked(ERASE, folder, environment({"database_url": url}), said, said)
        try:
            yield
            assert process.poll() is None, "it was to be killed before its end"
        finally:
            process.kill()
            process.wait(10)


def stored(url: str) -> list[Any]:
    tables = ("log", "turns", "keys.conversations", "snapshots", "chunks", "read_entries")
    return [query(url, f"SELECT to_jsonb(t) FROM {table} t ORDER BY 1") for table in tables]


def test_an_erasure_killed_before_its_commit_has_not_happened(url: str, tmp_path: Path) -> None:
    before = stored(url)
    with psycopg.connect(url) as holding_up:
        holding_up.execute("SELECT 1 FROM turns WHERE conversation = 'gone' FOR UPDATE")
        with erasing(tmp_path, url):  # the receipt is appended and the key destroyed, all but committed
            wait_until(lambda: bool(query(url, WAITS, "UPDATE turns SET payload%")), 60)
    wait_until(lambda: not query(url, OTHERS), 60)
    assert stored(url) == before
    assert any(WORD.encode() in row.data for row in opened_log(url))


def test_nothing_is_said_to_be_scrubbed_while_somebody_still_sees_what_was_erased(
    url: str, tmp_path: Path
) -> None:
    def scrubbed() -> Scrubbed:
        return scrub(url, vault(), READ_MODELS, is_our_server=False, patience_s=0.3)

    with psycopg.connect(url) as backup:
        backup.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        backup.execute("SELECT 1")
        done = minutebook(tmp_path, *ERASE, "--no-scrub", database_url=url)
        assert done.returncode == 0, done.stderr
        held_up = scrubbed()
        assert (held_up.erasures, "still sees" in held_up.left[0]) == (0, True)
        assert query(url, KEY) == [(True, True)]
    assert scrubbed().erasures == 1
    assert query(url, KEY) == [(True, False)]


def test_an_erasure_killed_in_its_scrub_is_whole_and_the_next_one_ends_the_scrub(
    url: str, tmp_path: Path
) -> None:
    with psycopg.connect(url) as holding_up:
        holding_up.execute("SELECT 1 FROM read_entries LIMIT 1")  # new tables cannot take the old ones' place
        with erasing(tmp_path, url):
            wait_until(lambda: "read_entries" in " ".join(tables_left(url)), 60)
    wait_until(lambda: not query(url, OTHERS), 60)
    assert query(url, KEY) == [(True, True)]
    assert query(url, RECEIPTS) == [(1,)]
    assert not any(WORD.encode() in row.data for row in opened_log(url))

    again = minutebook(tmp_path, *ERASE, database_url=url)
    assert again.returncode == 0, again.stderr
    assert query(url, KEY) == [(True, False)]
    assert query(url, RECEIPTS) == [(1,)]
    assert tables_left(url) == []
    assert WORD not in str(stored(url))
    assert OTHER in str(stored(url))
