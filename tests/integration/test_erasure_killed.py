"""An erasure killed half way has not happened; one whose scrub is killed is whole, and scrubbed later on."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.command_line import DATA, environment, minutebook
from tests.integration.saves import query
from tests.integration.test_erasure import OTHER, WORD, followed, holding, own_server, talk
from tests.opened import opened_log
from tests.projecting import tables_left, wait_until

ERASE = ("erase", "gone", "--yes", "--json")
WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
OTHERS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND pid <> pg_backend_pid()"
)
KEY = "SELECT wrapped IS NULL, scrubbed_at IS NULL FROM keys.conversations WHERE conversation = 'gone'"
RECEIPTS = "SELECT count(*) FROM log WHERE type = 'conversation.erased'"


@pytest.fixture
def url(server_folder: Path) -> Iterator[str]:
    """A database of its own, without a server, in which two have talked."""

    async def both() -> None:
        async with own_server(server_folder) as client:
            await talk(client, "gone", WORD)
            await talk(client, "kept", OTHER)
            with EmbeddedPostgres(server_folder / DATA) as embedded:
                await followed(await asyncio.to_thread(embedded.start))

    asyncio.run(both())
    with EmbeddedPostgres(server_folder / DATA) as embedded:
        yield embedded.start()


@contextmanager
def erasing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Erase in another process, and kill it at the end of the block."""
    command = [sys.executable, "-m", "api", *ERASE]
    quiet: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env=environment({}), **quiet) as process:
        try:
            yield process
            assert process.poll() is None, "it was to be killed before its end"
        finally:
            process.kill()


def stored(url: str) -> list[Any]:
    tables = ("log", "turns", "keys.conversations", "snapshots", "chunks", "read_entries")
    return [query(url, f"SELECT to_jsonb(t) FROM {table} t ORDER BY 1") for table in tables]


def erased(folder: Path) -> dict[str, Any]:
    done = minutebook(folder, *ERASE)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_an_erasure_killed_before_its_commit_has_not_happened(url: str, server_folder: Path) -> None:
    before = stored(url)
    with psycopg.connect(url) as holding_up:
        holding_up.execute("SELECT 1 FROM turns WHERE conversation = 'gone' FOR UPDATE")
        with erasing(server_folder):  # the receipt is appended and the key destroyed, all but committed
            wait_until(lambda: bool(query(url, WAITS, "UPDATE turns SET payload%")), 60)
    wait_until(lambda: not query(url, OTHERS), 60)
    assert stored(url) == before
    assert any(WORD.encode() in row.data for row in opened_log(url))
    assert erased(server_folder)["left"] == []
    assert query(url, KEY) == [(True, False)]


def test_an_erasure_killed_in_its_scrub_is_whole_and_the_next_one_ends_the_scrub(
    url: str, server_folder: Path
) -> None:
    with psycopg.connect(url) as holding_up:
        holding_up.execute("SELECT 1 FROM read_entries LIMIT 1")  # new tables cannot take the old ones' place
        with erasing(server_folder):
            wait_until(lambda: "read_entries" in " ".join(tables_left(url)), 60)
    wait_until(lambda: not query(url, OTHERS), 60)
    assert query(url, KEY) == [(True, True)]
    assert query(url, RECEIPTS) == [(1,)]
    assert not any(WORD.encode() in row.data for row in opened_log(url))

    assert erased(server_folder)["left"] == []
    assert query(url, KEY) == [(True, False)]
    assert query(url, RECEIPTS) == [(1,)]
    assert tables_left(url) == []
    assert holding(server_folder / DATA, WORD) == []
    assert holding(server_folder / DATA, OTHER)
