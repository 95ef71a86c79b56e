"""The same turn or the same fact again: attached, replayed or refused, and never recorded twice."""

import asyncio
from typing import Any

import pytest

from tests.integration.streams import (
    Gate,
    as_logged,
    ask,
    calls_of,
    check_frames,
    committed,
    data_of,
    decide,
    end_of,
    in_turn,
    log_of,
    refused,
    result,
    steered,
    turns_of,
    types,
)
from tests.serving import Refused, SseFrame, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

HELLO = {"type": "user_message", "content": "hello"}
ADA = {"conversation_id": "ada"}


def _rest(frames: list[SseFrame]) -> list[SseFrame]:
    return [*committed(frames), frames[-1]]


async def test_the_same_turn_replays_its_first_outcome_to_the_letter(database_url: str) -> None:
    async with serving(database_url) as server:
        first = await server.client.send(HELLO, **ADA, turn_id="t-1")
        again = [await server.client.send(HELLO, **ADA, turn_id="t-1") for _ in range(2)]
        without = await server.client.send(HELLO, turn_id="t-1")
        by_header = await server.client.send(HELLO, headers={"Idempotency-Key": "t-1"})
        stored = await log_of(database_url)
    assert [*again, without, by_header] == [_rest(first)] * 4
    assert as_logged(first) == stored


async def test_the_same_turn_attaches_while_it_runs_and_sees_the_same_frames(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, model):
        first = asyncio.create_task(server.client.send(HELLO, **ADA, turn_id="t-1"))
        await gate.reached.wait()
        others = [asyncio.create_task(server.client.send(HELLO, **ADA, turn_id="t-1")) for _ in range(3)]
        others.append(asyncio.create_task(server.client.read_turn("t-1")))
        await asyncio.sleep(0.1)
        gate.opened.set()
        frames = await asyncio.gather(first, *others)
        assert len(model.requests) == 1
    check_frames(frames[0])
    assert frames[1:] == [frames[0]] * 4


@pytest.mark.parametrize("running", [True, False], ids=["running", "over"])
async def test_another_message_under_the_same_turn_is_refused(database_url: str, running: bool) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        first = asyncio.create_task(server.client.send(HELLO, **ADA, turn_id="t-1"))
        await gate.reached.wait()
        if not running:
            gate.opened.set()
            await first
        for message in (
            {**HELLO, "content": "other"},
            {**HELLO, "agent": "ask"},
            {"type": "switch_agent", "agent": "ask"},
        ):
            problem = await refused(server.client, message, "turn_id_reused", **ADA, turn_id="t-1")
            assert problem["status"] == 409
            assert problem["turn_id"] == "t-1"
        await refused(server.client, HELLO, "turn_id_reused", conversation_id="other", turn_id="t-1")
        gate.opened.set()
        assert types(await first)[-1] == "assistant_message_sent"
        assert await turns_of(database_url) == [("t-1", "committed")]


async def test_twenty_duplicates_at_the_same_instant_make_one_turn(database_url: str) -> None:
    async with serving(database_url) as server:
        streams = await asyncio.gather(*(server.client.send(HELLO, **ADA, turn_id="t-1") for _ in range(20)))
        stored = await log_of(database_url)
        assert await turns_of(database_url) == [("t-1", "committed")]
    assert [_rest(frames) for frames in streams] == [_rest(streams[0])] * 20
    assert as_logged(streams[0]) == stored


async def test_twenty_equal_results_at_the_same_instant_are_one_result(database_url: str) -> None:
    async with serving(database_url, busy_wait_s=20) as server:
        (call_id,) = calls_of(await server.client.say("read a.txt", **ADA))
        same_turn = [result(server.client, "ada", call_id, turn_id="t-1") for _ in range(10)]
        other_turns = [result(server.client, "ada", call_id) for _ in range(10)]
        streams = await asyncio.gather(*same_turn, *other_turns)
        stored = await log_of(database_url)
    assert sum(event["type"] == "conversation.tool_result_received" for event in stored) == 1
    assert len({end_of(frames)["last_position"] for frames in streams}) == 1
    assert {frames[-1].type for frames in streams} == {"turn.committed"}


async def test_a_turn_id_may_come_as_a_header_and_has_to_be_the_same_where_both_are_there(
    database_url: str,
) -> None:
    key = {"Idempotency-Key": "t-1"}
    async with serving(database_url) as server:
        frames = await server.client.send(HELLO, **ADA, turn_id="t-1", headers=key)
        assert frames[0].data["turn_id"] == "t-1"
        await refused(server.client, HELLO, "invalid_message", **ADA, turn_id="t-2", headers=key)
        await refused(server.client, HELLO, "invalid_message", headers={"Idempotency-Key": ".t"})


async def test_a_refusal_leaves_no_turn_and_its_id_may_be_used_again(database_url: str) -> None:
    async with serving(database_url) as server:
        again = {"type": "switch_agent", "agent": "ask"}
        for _ in range(2):
            await refused(server.client, again, "conversation_not_found", **ADA, turn_id="t-1")
        assert await turns_of(database_url) == []
        assert await log_of(database_url) == []
        with pytest.raises(Refused, match="turn_not_found"):
            await server.client.read_turn("t-1")
        await server.client.send(HELLO, **ADA, turn_id="t-0")
        assert types(await server.client.send(again, **ADA, turn_id="t-1")) == ["switched"]
        assert await turns_of(database_url) == [("t-0", "committed"), ("t-1", "committed")]


async def test_equal_refusals_at_the_same_instant_are_all_refused(database_url: str) -> None:
    message = {"type": "switch_agent", "agent": "ask"}
    async with serving(database_url) as server:
        told = await asyncio.gather(
            *(
                refused(server.client, message, "conversation_not_found", **ADA, turn_id="t-1")
                for _ in range(20)
            )
        )
        assert len(told) == 20
        assert await turns_of(database_url) == []


async def test_the_same_fact_under_another_turn_is_no_new_event_and_the_first_outcome_again(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        client = server.client
        (call_id,) = calls_of(await ask(client, "write a.txt", "coder", **ADA))
        firsts: list[Any] = [await decide(client, "ada", call_id, "edit", arguments={"path": "b.txt"})]
        repeats = [await decide(client, "ada", call_id, "edit", arguments={"path": "b.txt"})]
        firsts.append(await result(client, "ada", call_id, {"a": [1, 0.5]}))
        repeats.append(await result(client, "ada", call_id, {"a": [1, 0.5]}))
        switch = {"type": "switch_agent", "agent": "architect"}
        firsts.append(await client.send(switch, **ADA))
        repeats.append(await client.send(switch, **ADA))
        plan_id = data_of(await client.say("plan a house", **ADA), "conversation.plan_proposed")[0]["plan_id"]
        no = {"type": "plan_decision", "plan_id": plan_id, "plan_version": 1, "decision": "reject"}
        firsts.append(await client.send(no, **ADA))
        repeats.append(await client.send(no, **ADA))
        stored = await log_of(database_url)
        assert len({event["position"] for event in stored}) == len(stored)
    for first, again in zip(firsts, repeats, strict=True):
        check_frames(again)
        assert _without_turn(again) == _without_turn(first)
        assert again[0].data["turn_id"] != first[0].data["turn_id"]
        assert end_of(again)["state"] == end_of(first)["state"]
    (received,) = [event for event in stored if event["type"] == "conversation.tool_result_received"]
    assert received["data"]["result"] == {"a": [1, 0.5]}


def _without_turn(frames: list[SseFrame]) -> list[dict[str, Any]]:
    hidden = ("seq", "turn_id")
    return [{k: v for k, v in frame.data.items() if k not in hidden} for frame in _rest(frames)]


async def test_a_different_fact_about_what_is_settled_is_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        client = server.client
        (call_id,) = calls_of(await ask(client, "write a.txt", "coder", **ADA))
        await decide(client, "ada", call_id, "approve")
        reject = {"type": "hitl_decision", "call_id": call_id, "decision": "reject"}
        await refused(client, reject, "call_already_decided", **ADA)
        await result(client, "ada", call_id, 0)
        for other in (False, 0.0, None, "0"):
            message = {"type": "tool_result", "call_id": call_id, "result": other}
            await refused(client, message, "call_already_answered", **ADA)
        await refused(client, reject, "call_already_decided", **ADA)
        frames = await ask(client, "plan a house", "architect", **ADA)
        about = {
            "type": "plan_decision",
            "plan_id": data_of(frames, "conversation.plan_proposed")[0]["plan_id"],
        }
        await client.send({**about, "plan_version": 1, "decision": "reject"}, **ADA)
        await refused(
            client, {**about, "plan_version": 1, "decision": "approve"}, "plan_already_decided", **ADA
        )
