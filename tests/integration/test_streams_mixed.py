"""Answers that do several things at once: each of them follows its own rule."""

import asyncio

from tests.integration.streams import (
    ask,
    calling,
    calls_of,
    check_frames,
    data_of,
    decide,
    end_of,
    in_turn,
    log_of,
    refused,
    result,
    said_by,
    steered,
    types,
)
from tests.integration.test_streams_calls import results_by_call, tool_messages
from tests.openai_pieces import Text

ADA = {"conversation_id": "ada"}
PLAN = {"goal": "a house", "subtasks": [{"id": "1", "description": "build", "agent": "ask"}]}


async def test_a_call_beside_a_plan_in_review_takes_its_result_and_the_agent_waits_for_the_decision(
    database_url: str,
) -> None:
    both = calling(("read_file", {"path": "a"}), ("propose_plan", PLAN), ("read_file", {"path": "b"}))
    async with steered(database_url, in_turn(both, [Text("built")])) as (server, model):
        frames = await ask(server.client, "plan", "architect", **ADA)
        first, second = calls_of(frames)
        (plan,) = data_of(frames, "conversation.plan_proposed")
        about = {"plan_id": plan["plan_id"], "plan_version": 1}
        assert end_of(frames)["state"] == "plan_in_review"
        assert end_of(frames)["waiting_for"] == {"calls": [first, second], "decisions": [], "plan": about}
        assert types(await result(server.client, "ada", first)) == ["tool_result_received"]
        assert len(model.requests) == 1
        message = {"type": "plan_decision", **about, "decision": "approve"}
        carried = await server.client.send(message, **ADA)
        tool_messages(model.requests[1])
        late = {"type": "tool_result", "call_id": second, "result": 1}
        await refused(server.client, late, "call_closed", **ADA)
        stored = await log_of(database_url)
    check_frames(carried)
    assert types(carried)[:2] == ["tool_call_closed", "plan_approved"]
    assert said_by(carried) == ["built"]
    assert {len(ended) for ended in results_by_call(stored).values()} == {1}


async def test_an_agent_that_calls_a_tool_and_hands_over_leaves_the_result_to_the_next_one(
    database_url: str,
) -> None:
    both = calling(("read_file", {"path": "a"}), ("switch_agent", {"agent": "coder"}), text="Both.")
    async with steered(database_url, in_turn(both)) as (server, model):
        frames = await server.client.say("hi", **ADA)
        (call_id,) = calls_of(frames)
        assert data_of(frames, "agent.switched")[0]["to"] == "coder"
        last = await result(server.client, "ada", call_id, "read")
        assert [content for _, content in tool_messages(model.requests[1])] == ["read"]
    assert data_of(last, "conversation.assistant_message_sent")[0]["agent"] == "coder"


async def test_what_was_refused_and_what_was_handed_over_stand_in_the_order_in_which_they_were_said(
    database_url: str,
) -> None:
    script = in_turn(
        calling(("no_such_tool", {"n": 1}), text="one"),
        calling(("switch_agent", {"agent": "coder"}), text="two"),
        calling(("no_such_tool", {"n": 3}), text="three"),
    )
    async with steered(database_url, script) as (server, model):
        await server.client.say("hi", **ADA)
        last = model.requests[-1]
        assert len(tool_messages(last)) == 3
    told = [message["content"] for message in last.messages if message["role"] in ("assistant", "tool")]
    words = ("forbidden", "coder", "one", "two", "three")
    kinds = [next(word for word in words if word in said) for said in told]
    assert kinds == ["one", "forbidden", "two", "coder", "three", "forbidden"]


async def test_decisions_sent_at_the_same_instant_are_all_recorded_and_the_agent_goes_on_once(
    database_url: str,
) -> None:
    calls_to_make = calling(*(("write_file", {"path": f"{n}", "content": ""}) for n in range(4)))
    async with steered(database_url, in_turn(calls_to_make), busy_wait_s=20) as (server, model):
        calls = calls_of(await ask(server.client, "hi", "coder", **ADA))
        await asyncio.gather(*(decide(server.client, "ada", call_id, "reject") for call_id in calls))
        assert len(model.requests) == 2
        stored = await log_of(database_url)
    assert [event["type"] for event in stored].count("conversation.tool_call_rejected") == 4
    assert {len(ended) for ended in results_by_call(stored).values()} == {1}
