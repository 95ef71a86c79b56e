"""Messages that meet a running turn: results and decisions wait in line, all others are refused at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from application.ports import Accepted, TurnRequest
from application.protocol import payload_hash
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.integration.streams import (
    Gate,
    calls_of,
    check_frames,
    end_of,
    in_turn,
    log_of,
    reading,
    refused,
    result,
    steered,
    turns_of,
    types,
)
from tests.integration.test_streams_failures import retry
from tests.openai_pieces import Status, Text
from tests.serving import Refused, frames_of, serving

ADA = {"conversation_id": "ada"}


async def test_three_results_sent_at_the_same_instant_are_all_recorded_and_the_agent_goes_on_once(
    database_url: str,
) -> None:
    async with steered(database_url, in_turn(reading(3), [Text("thanks")])) as (server, model):
        calls = calls_of(await server.client.say("hi", **ADA))
        streams = await asyncio.gather(
            *(result(server.client, "ada", call_id, n) for n, call_id in enumerate(calls))
        )
        assert len(model.requests) == 2
        stored = await log_of(database_url)
        sent = model.requests[1].messages
    for frames in streams:
        check_frames(frames)
    assert sorted(len(types(frames)) for frames in streams) == [1, 1, 3]
    assert [event["type"] for event in stored][-5:] == [
        *["conversation.tool_result_received"] * 3,
        "agent.model_called",
        "conversation.assistant_message_sent",
    ]
    assert [(m["role"], m.get("content")) for m in sent if m["role"] == "tool"] == [
        ("tool", "0"), ("tool", "1"), ("tool", "2")
    ]  # fmt: skip


@asynccontextmanager
async def busy(database_url: str, conversation_id: str) -> AsyncIterator[None]:
    """Let a turn of another server run in this conversation for the length of the block."""
    request = TurnRequest("busy", conversation_id, "local", "user_message", {}, payload_hash({}))
    async with open_pool(database_url, max_size=2) as pool:
        turns = PostgresTurns(pool, "another-server", 60)
        assert isinstance(await turns.accept(request), Accepted)
        yield
        await turns.withdraw("busy", 1)


async def test_results_that_meet_a_running_turn_wait_for_it_in_the_order_of_arrival(
    database_url: str,
) -> None:
    async with steered(database_url, in_turn(reading(6)), busy_wait_s=20) as (server, model):
        calls = calls_of(await server.client.say("hi", **ADA))
        arriving = [calls[n] for n in (4, 1, 5, 3, 0, 2)]
        async with busy(database_url, "ada"):
            waiting = []
            for call_id in arriving:
                waiting.append(asyncio.create_task(result(server.client, "ada", call_id)))
                await asyncio.sleep(0.05)
            assert not any(task.done() for task in waiting)
        streams = await asyncio.gather(*waiting)
        assert len(model.requests) == 2
        stored = await log_of(database_url)
    received = [e["data"]["call_id"] for e in stored if e["type"] == "conversation.tool_result_received"]
    assert received == arriving
    assert [len(types(frames)) for frames in streams] == [1, 1, 1, 1, 1, 3]


async def test_a_retry_of_a_result_waits_for_a_running_turn_in_the_order_of_arrival(
    database_url: str,
) -> None:
    script = in_turn(reading(2), [Status(500)], [Text("thanks")])
    async with steered(database_url, script, busy_wait_s=20) as (server, _):
        first, second = calls_of(await server.client.say("hi", **ADA))
        await result(server.client, "ada", first, turn_id="t-1")
        failed = await result(server.client, "ada", second, turn_id="t-2")
        assert end_of(failed)["code"] == "model_unavailable"
        async with busy(database_url, "ada"):
            waiting: list[asyncio.Task[Any]] = [asyncio.create_task(retry(server, "t-2"))]
            await asyncio.sleep(0.1)
            waiting.append(asyncio.create_task(result(server.client, "ada", second, turn_id="t-3")))
            await asyncio.sleep(0.2)
            assert not any(task.done() for task in waiting)
        again, repeated = await asyncio.gather(*waiting)
    check_frames(again, attempt=2)
    assert types(again) == types(repeated)
    assert {event["turn_id"] for event in await log_of(database_url)} >= {"t-1", "t-2"}
    assert "t-3" not in {event["turn_id"] for event in await log_of(database_url)}


async def test_a_retry_of_a_result_waits_no_longer_than_it_may(database_url: str) -> None:
    async with steered(database_url, in_turn(reading(1), [Status(500)]), busy_wait_s=0.5) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        await result(server.client, "ada", call_id, turn_id="t-2")
        async with busy(database_url, "ada"):
            before = time.monotonic()
            with pytest.raises(Refused, match="turn_in_progress"):
                await retry(server, "t-2")
            assert 0.5 <= time.monotonic() - before < 2.5


async def test_a_repeat_of_a_running_result_attaches_at_once_although_others_wait(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(reading(2), gate.pieces()), busy_wait_s=30) as (server, _):
        first, second = calls_of(await server.client.say("hi", **ADA))
        await result(server.client, "ada", first)
        running = asyncio.create_task(result(server.client, "ada", second, turn_id="t-2"))
        await gate.reached.wait()
        waiting = asyncio.create_task(result(server.client, "ada", first))
        await asyncio.sleep(0.1)
        again = {"type": "tool_result", "call_id": second, "result": "ok"}
        async with (
            asyncio.timeout(10),
            server.client.stream({**ADA, "turn_id": "t-2", "message": again}) as response,
        ):
            frames = frames_of(response)
            assert (await anext(frames)).type == "turn.started"
            gate.opened.set()
            assert [frame async for frame in frames][-1] == (await running)[-1]
        assert types(await waiting) == ["tool_result_received"]


async def test_a_result_waits_no_longer_than_it_may(database_url: str) -> None:
    seconds = 0.5
    gate = Gate()
    script = in_turn(reading(1), gate.pieces())
    async with steered(database_url, script, busy_wait_s=seconds) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        running = asyncio.create_task(server.client.say("never mind", **ADA, turn_id="t-2"))
        await gate.reached.wait()
        messages: list[dict[str, Any]] = [
            {"type": "tool_result", "call_id": call_id, "result": 1},
            {"type": "hitl_decision", "call_id": call_id, "decision": "approve"},
        ]
        before = time.monotonic()
        told = await asyncio.gather(
            *(refused(server.client, m, "turn_in_progress", **ADA) for m in messages * 2)
        )
        took = time.monotonic() - before
        assert {problem["turn_id"] for problem in told} == {"t-2"}
        assert seconds <= took < seconds + 2
        gate.opened.set()
        await running
        assert len(await turns_of(database_url)) == 2
        await refused(server.client, messages[0], "call_closed", **ADA)


async def test_every_other_message_is_refused_at_once_and_told_which_turn_runs(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces()), busy_wait_s=30) as (server, _):
        running = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await gate.reached.wait()
        before = time.monotonic()
        messages: list[dict[str, Any]] = [
            {"type": "user_message", "content": "me too"},
            {"type": "switch_agent", "agent": "ask"},
            {"type": "plan_decision", "plan_id": "p", "plan_version": 1, "decision": "approve"},
        ]
        for message in messages:
            problem = await refused(server.client, message, "turn_in_progress", **ADA)
            assert (problem["status"], problem["turn_id"], problem["retryable"]) == (409, "t-1", True)
        assert time.monotonic() - before < 5
        gate.opened.set()
        await running
        assert await turns_of(database_url) == [("t-1", "committed")]


async def test_two_servers_run_one_turn_of_a_conversation_at_a_time(database_url: str) -> None:
    gate = Gate()
    script = in_turn(reading(2), gate.pieces(), [Text("done")])
    async with steered(database_url, script) as (here, _), serving(database_url) as there:
        calls = calls_of(await here.client.say("hi", **ADA))
        await result(there.client, "ada", calls[0])
        running = asyncio.create_task(result(here.client, "ada", calls[1], turn_id="t-3"))
        await gate.reached.wait()
        user_message = {"type": "user_message", "content": "me too"}
        problem = await refused(there.client, user_message, "turn_in_progress", **ADA)
        assert problem["turn_id"] == "t-3"
        attached = asyncio.create_task(there.client.read_turn("t-3"))
        await asyncio.sleep(0.1)
        gate.opened.set()
        frames = await running
        assert (await attached)[-1] == frames[-1]
        assert end_of(frames)["state"] == "idle"


async def test_a_turn_is_cancelled_from_another_server(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (here, _), serving(database_url) as there:
        running = asyncio.create_task(here.client.say("hi", **ADA, turn_id="t-1"))
        await gate.reached.wait()
        response = await there.client.http.post("/v1/turns/t-1/cancel")
        assert response.json()["state"] == "committed"
        assert types(await running)[-1] == "turn_cancelled"
