"""A server scrubs the files of what was erased, by itself, and one that is killed in it does it later."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.command_line import DATA
from tests.integration.saves import query
from tests.integration.test_erasure import OTHER, WORD, erase, holding, settled, talk
from tests.projecting import tables_left, wait_until
from tests.serving import Client, ServerProcess

SECOND = "gazebolith"
SCRUBBED = "SELECT count(*) FROM keys.conversations WHERE scrubbed_at IS NOT NULL"


async def told(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for conversation, word in (("gone", WORD), ("later", SECOND), ("kept", OTHER)):
            await talk(Client(http), conversation, word)


async def erased(url: str, conversation: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await erase(Client(http), conversation)


async def scrubbed_at(url: str, conversation: str) -> object:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        return (await erase(Client(http), conversation))["scrubbed_at"]


@contextmanager
def nobody_swaps(url: str) -> Iterator[None]:
    """Let new tables not take the old ones' place."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1 FROM read_entries LIMIT 1")
        yield


def test_a_server_scrubs_and_the_next_one_ends_what_a_killed_one_has_begun(server_folder: Path) -> None:
    data = server_folder / DATA
    with EmbeddedPostgres(data) as embedded:
        url = embedded.start()
        with ServerProcess(server_folder, demo_delay_s=0, scrub_delay_s=0) as server:
            asyncio.run(told(server.url))
            settled(data)
            assert holding(data, WORD)  # else this test would find nothing whatever we did
            assert holding(data, SECOND)
            asyncio.run(erased(server.url, "gone"))
            wait_until(lambda: query(url, SCRUBBED) == [(1,)], 60)
            assert asyncio.run(scrubbed_at(server.url, "gone"))
            assert holding(data, WORD) == []

            with nobody_swaps(url):
                asyncio.run(erased(server.url, "later"))
                wait_until(lambda: "read_entries" in " ".join(tables_left(url)), 60)
                server.kill()
        assert query(url, SCRUBBED) == [(1,)]
        with ServerProcess(server_folder, demo_delay_s=0, scrub_delay_s=0) as server:
            wait_until(lambda: query(url, SCRUBBED) == [(2,)], 60)
            assert asyncio.run(scrubbed_at(server.url, "later"))
        assert tables_left(url) == []
    assert holding(data, SECOND) == []
    assert holding(data, OTHER)
