"""A server that is about to end: what it has taken it ends, and it takes nothing more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from tests.integration.saves import appending, save
from tests.integration.streams import Gate, calls_of, end_of, in_turn, reading, refused, steered, turns_of
from tests.integration.waiting import eventually
from tests.openai_pieces import Text
from tests.serving import serving

ADA = {"conversation_id": "ada"}
HELLO = {"type": "user_message", "content": "hello"}


@asynccontextmanager
async def no_new_turn(database_url: str) -> AsyncIterator[None]:
    """Let whoever accepts a turn wait for the length of the block."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("LOCK TABLE turns IN SHARE MODE")
        yield


async def somebody_waits(database_url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
            " WHERE NOT granted AND datname = current_database() AND relation = 'turns'::regclass"
        )
        row = await cursor.fetchone()
        return bool(row and row[0])


async def test_a_message_that_is_being_accepted_when_the_server_closes_is_refused_and_leaves_no_turn(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        async with no_new_turn(database_url):
            asked = asyncio.create_task(refused(server.client, HELLO, "shutting_down", **ADA))
            await eventually(lambda: somebody_waits(database_url))
            await server.house.running.close(0)
        await asked
        assert await turns_of(database_url) == []


async def test_a_retry_that_is_being_accepted_when_the_server_closes_can_be_tried_elsewhere(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        failed = await server.client.say("fail", **ADA, turn_id="t")
        assert end_of(failed)["code"] == "model_unavailable"
        async with no_new_turn(database_url):
            asked = asyncio.create_task(server.client.http.post("/v1/turns/t/retry"))
            await eventually(lambda: somebody_waits(database_url))
            await server.house.running.close(0)
        assert (await asked).json()["code"] == "shutting_down"
        assert await turns_of(database_url) == [("t", "abandoned")]


async def test_a_result_that_waits_for_a_turn_is_refused_when_the_server_closes(database_url: str) -> None:
    gate = Gate()
    script = in_turn(reading(1), gate.pieces(), [Text("not to be said")])
    async with steered(database_url, script, busy_wait_s=60) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        running = asyncio.create_task(server.client.say("never mind", **ADA, turn_id="t-2"))
        await gate.reached.wait()
        message = {"type": "tool_result", "call_id": call_id, "result": 1}
        waiting = asyncio.create_task(refused(server.client, message, "shutting_down", **ADA))
        await asyncio.sleep(0.2)
        closing = asyncio.create_task(server.house.running.close(60))
        async with asyncio.timeout(30):
            await waiting  # it is not left to wait for what it cannot get here
        gate.opened.set()
        assert end_of(await running)["is_final"]
        assert await closing == []
        assert [state for _, state in await turns_of(database_url)] == ["committed", "committed"]


@pytest.mark.parametrize("saves", [1, 3])
async def test_listeners_are_told_of_what_was_stored_last_before_the_server_ends(
    database_url: str, saves: int
) -> None:
    listener = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    async with listener:
        await listener.execute("LISTEN minutebook_log")
        async with appending(database_url) as appender:
            for _ in range(saves):
                await appender.append(save())
        told = [notify.payload async for notify in listener.notifies(timeout=2)]
    assert told[-1:] == [str(saves)]
