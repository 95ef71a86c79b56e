"""Files are scrubbed of what was erased: by the command, by a server, and by the next after a killed one."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.asking import query
from tests.command_line import DATA, minutebook
from tests.integration.test_erasure import OTHER, WORD, erase, holding, settled, talk
from tests.projecting import tables_left, wait_until
from tests.serving import Client, ServerProcess

SECOND = "gazebolith"
SCRUBBED = "SELECT count(*) FROM keys.conversations WHERE scrubbed_at IS NOT NULL"


async def told(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
        for conversation, word in (("gone", WORD), ("later", SECOND), ("kept", OTHER)):
            await talk(Client(http), conversation, word)


async def erased(url: str, conversation: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
        return await erase(Client(http), conversation)


@contextmanager
def nobody_swaps(url: str) -> Iterator[None]:
    """Let new tables not take the old ones' place."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1 FROM read_entries LIMIT 1")
        yield


@pytest.fixture
def url(server_folder: Path) -> Iterator[str]:
    with EmbeddedPostgres(server_folder / DATA) as embedded:
        yield embedded.start()


def test_no_file_holds_what_was_erased_though_the_server_that_scrubs_is_killed(
    url: str, server_folder: Path
) -> None:
    data = server_folder / DATA
    with ServerProcess(server_folder, demo_delay_s=0, scrub_delay_s=1) as server:
        asyncio.run(told(server.url))
        wrapped = settled(data)
        assert len(holding(data, WORD)) > 1  # else this test would find nothing whatever we did
        assert len(holding(data, SECOND)) > 1
        done = minutebook(server_folder, "erase", "gone", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["left"] == []
        assert holding(data, WORD) == []
        assert not [path for path in data.rglob("*") if path.is_file() and wrapped in path.read_bytes()]
        with nobody_swaps(url):
            asyncio.run(erased(server.url, "later"))
            wait_until(lambda: "read_entries" in " ".join(tables_left(url)), 60)
            server.kill()
    assert query(url, SCRUBBED) == [(1,)]

    with ServerProcess(server_folder, demo_delay_s=0, scrub_delay_s=1) as server:
        wait_until(lambda: query(url, SCRUBBED) == [(2,)], 60)
        assert asyncio.run(erased(server.url, "later"))["scrubbed_at"]
    assert tables_left(url) == []
    assert holding(data, SECOND) == []
    assert holding(data, OTHER)
