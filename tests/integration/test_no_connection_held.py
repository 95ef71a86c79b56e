"""No database connection is held while a model speaks: a pool of 2 carries 200 slow streams at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.openai_pieces import Pause, Piece, Text
from tests.openai_server import ChatRequest, OpenAIServer
from tests.serving import Client, ServerProcess, SseFrame

pytestmark = pytest.mark.no_cover  # the server is another process: its lines are not seen

STREAMS = 200
POOL = 2
POOLED = ("minutebook", "minutebook reads")  # the two pools' connections; each other name is one connection

# Our connections by name; how many are in a transaction that does nothing; the oldest transaction's age.
LOOK = """
    SELECT application_name, count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
           coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
     GROUP BY application_name"""


class Stalling:
    """A provider whose every answer stops in the middle until it is let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.stalled = 0

    async def script(self, request: ChatRequest) -> AsyncIterator[Piece]:
        yield Text("half an answer, ")
        if "slow" in str(request.messages[-1]["content"]):
            self.stalled += 1
            while not self.go_on.is_set():
                yield Pause(0.1)
        yield Text("and the other half")


@asynccontextmanager
async def stalling_server(folder: Path, database_url: str) -> AsyncIterator[tuple[Stalling, Client]]:
    stalling = Stalling()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with OpenAIServer(stalling.script) as provider:
        settings: dict[str, Any] = {"model": "openai:x", "model_base_url": provider.base_url}
        server = ServerProcess(
            folder, database_url=database_url, pool_size=POOL, model_api_key="key", **settings
        )
        await asyncio.to_thread(server.start)
        try:
            async with httpx.AsyncClient(
                base_url=server.url, timeout=100, limits=limits, verify=False
            ) as http:
                yield stalling, Client(http)
        finally:
            await asyncio.to_thread(server.stop)


async def until_all_are_stalled(stalling: Stalling, running: list[asyncio.Task[list[SseFrame]]]) -> None:
    deadline = time.monotonic() + 60
    while stalling.stalled < STREAMS:
        ended = [task for task in running if task.done()]
        assert not ended, ended[0].result()[-1]
        assert time.monotonic() < deadline, f"only {stalling.stalled} of {STREAMS} streams got that far"
        await asyncio.sleep(0.05)


@pytest.mark.may_block("200 clients and a provider share the loop of the test; the server has its own")
async def test_two_connections_carry_two_hundred_slow_streams(database_url: str, server_folder: Path) -> None:
    async with stalling_server(server_folder, database_url) as (stalling, client):
        running = [
            asyncio.create_task(client.say("slow", conversation_id=f"c{number}")) for number in range(STREAMS)
        ]
        await until_all_are_stalled(stalling, running)
        looks = await asyncio.to_thread(looked_at, database_url, 30)
        began = time.monotonic()
        quick = await client.say("quick")
        took = time.monotonic() - began
        assert not any(task.done() for task in running)
        stalling.go_on.set()
        ended = await asyncio.gather(*running)
    assert {name for name, count, _, _ in looks if count > (POOL if name in POOLED else 1)} == set()
    assert POOLED[0] in {name for name, _, _, _ in looks}
    assert {idle for _, _, idle, _ in looks} == {0}
    assert max(age for _, _, _, age in looks) < 0.5, "a transaction lasts as long as a model speaks"
    assert quick[-1].type == "turn.committed"
    assert took < 2, f"a quick request took {took:.1f} s"
    assert [frames[-1].type for frames in ended] == ["turn.committed"] * STREAMS
    with psycopg.connect(database_url) as connection:
        query = "SELECT state, count(*) FROM turns GROUP BY state"
        assert connection.execute(query).fetchall() == [("committed", STREAMS + 1)]


def looked_at(url: str, times: int) -> list[tuple[Any, ...]]:
    """Look at our connections this often, for some seconds, so that leases are renewed meanwhile."""
    looks: list[tuple[Any, ...]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(times):
            looks += connection.execute(LOOK).fetchall()
            time.sleep(0.1)
    return looks
