"""Plans: proposed, decided on, and carried out subtask by subtask in the same stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from tests.integration.streams import (
    Gate,
    as_logged,
    ask,
    calling,
    calls_of,
    check_frames,
    data_of,
    decide,
    end_of,
    in_turn,
    log_of,
    reading,
    refused,
    result,
    said_by,
    steered,
    types,
)
from tests.openai_pieces import Piece, Text
from tests.serving import Client, SseFrame, serving

ADA = {"conversation_id": "ada"}


def step(id_: str, agent: str, *depends_on: str) -> dict[str, Any]:
    """Return one subtask."""
    return {"id": id_, "description": f"do {id_}", "agent": agent, "depends_on": list(depends_on)}


def proposing(*steps: dict[str, Any], goal: str = "a house") -> list[Piece]:
    """Answer with a proposal of these subtasks."""
    return calling(("propose_plan", {"goal": goal, "subtasks": list(steps)}))


# Given in an order in which they cannot be carried out.
HOUSE = [
    step("roof", "debug", "walls", "beams"),
    step("walls", "coder", "ground"),
    step("beams", "ask", "ground"),
    step("ground", "ask"),
]


async def decide_plan(client: Client, frames: list[SseFrame], decision: str, **more: Any) -> list[SseFrame]:
    """Decide on the plan that these frames proposed."""
    proposed = data_of(frames, "conversation.plan_proposed")[-1]
    about = {"plan_id": proposed["plan_id"], "plan_version": proposed["plan_version"]}
    return await client.send({"type": "plan_decision", **about, "decision": decision, **more}, **ADA)


def done(frames: list[SseFrame]) -> list[str]:
    """Return what was started (+), completed (-) and failed (!) in order, with the agent that was on."""
    marks = {"subtask_started": "+", "subtask_completed": "-", "subtask_failed": "!"}
    kinds = [(frame.type.partition(".")[2], frame.data) for frame in frames]
    return [marks[kind] + data["data"]["subtask_id"] for kind, data in kinds if kind in marks]


def on(frames: list[SseFrame]) -> list[str]:
    """Return who was put on, in order."""
    return [said["to"] for said in data_of(frames, "agent.switched")]


Step = Iterable[Piece] | AsyncIterator[Piece]


async def test_a_plan_is_routed_proposed_approved_and_carried_out_in_dependency_order(
    database_url: str,
) -> None:
    hand_over = calling(("switch_agent", {"agent": "architect", "reason": "a plan"}))
    answers: list[Step] = [[Text(f"{name} done")] for name in ("ground", "walls", "beams", "roof")]
    async with steered(database_url, in_turn(hand_over, proposing(*HOUSE), *answers)) as (server, model):
        proposed = await server.client.say("build a house", **ADA)
        carried = await decide_plan(server.client, proposed, "approve")
        assert as_logged(proposed) + as_logged(carried) == await log_of(database_url)
        assert len(model.requests) == 6
    check_frames(proposed)
    check_frames(carried)
    assert end_of(proposed)["state"] == "plan_in_review"
    assert on(proposed) == ["architect"]
    assert done(carried) == ["+ground", "-ground", "+walls", "-walls", "+beams", "-beams", "+roof", "-roof"]
    assert on(carried) == ["ask", "coder", "ask", "debug", "architect"]
    assert said_by(carried) == ["ground done", "walls done", "beams done", "roof done"]
    senders = [said["agent"] for said in data_of(carried, "conversation.assistant_message_sent")]
    assert senders == ["ask", "coder", "ask", "debug"]
    assert types(carried)[0] == "plan_approved"
    assert types(carried)[-2:] == ["plan_completed", "switched"]
    assert end_of(carried)["state"] == "idle"
    told = [frame.data["text"] for frame in carried if frame.type == "turn.status"]
    assert told == ["subtask 1/4", "subtask 2/4", "subtask 3/4", "subtask 4/4"]


async def test_a_subtask_waits_for_its_calls_and_goes_on_in_the_stream_of_their_answer(
    database_url: str,
) -> None:
    script = in_turn(
        proposing(step("one", "ask"), step("two", "coder", "one")),
        reading(2),
        [Text("read")],
        calling(("write_file", {"path": "a", "content": ""})),
        [Text("written")],
    )
    async with steered(database_url, script) as (server, _):
        client = server.client
        first = await decide_plan(client, await ask(client, "plan", "architect", **ADA), "approve")
        assert (done(first), end_of(first)["state"]) == (["+one"], "plan_in_execution")
        calls = calls_of(first)
        assert end_of(first)["waiting_for"] == {"calls": calls, "decisions": [], "plan": None}
        assert done(await result(client, "ada", calls[0])) == []
        second = await result(client, "ada", calls[1])
        assert done(second) == ["-one", "+two"]
        (call_id,) = calls_of(second)
        assert end_of(second)["waiting_for"]["decisions"] == [call_id]
        message = {"type": "tool_result", "call_id": call_id, "result": 1}
        await refused(client, message, "call_not_approved", **ADA)
        assert done(await decide(client, "ada", call_id, "approve")) == []
        last = await result(client, "ada", call_id)
    assert done(last) == ["-two"]
    assert types(last)[-3:] == ["subtask_completed", "plan_completed", "switched"]
    assert on(last) == ["architect"]


async def test_a_rejected_call_of_a_subtask_lets_the_subtask_go_on(database_url: str) -> None:
    script = in_turn(proposing(step("one", "coder")), calling(("write_file", {"path": "a", "content": ""})))
    async with steered(database_url, script) as (server, _):
        client = server.client
        first = await decide_plan(client, await ask(client, "plan", "architect", **ADA), "approve")
        last = await decide(client, "ada", calls_of(first)[0], "reject", feedback="no")
    assert done(last) == ["-one"]
    assert end_of(last)["state"] == "idle"


async def test_a_plan_sent_back_comes_back_as_its_next_version_in_the_same_stream(database_url: str) -> None:
    script = in_turn(proposing(*HOUSE), proposing(step("tent", "ask")), [Text("camped")])
    async with steered(database_url, script) as (server, model):
        client = server.client
        first = await ask(client, "plan", "architect", **ADA)
        await client.send({"type": "switch_agent", "agent": "ask"}, **ADA)
        second = await decide_plan(client, first, "modify", feedback="smaller")
        assert "smaller" in json.dumps(model.requests[1].messages)
        assert types(second)[0] == "plan_modification_requested"
        assert on(second) == ["architect"]
        old = data_of(first, "conversation.plan_proposed")[0]
        new = data_of(second, "conversation.plan_proposed")[0]
        assert (new["plan_id"], new["plan_version"]) == (old["plan_id"], 2)
        plan = {"plan_id": old["plan_id"], "plan_version": 2}
        assert end_of(second)["waiting_for"]["plan"] == plan
        stale = {"type": "plan_decision", **plan, "plan_version": 1, "decision": "approve"}
        await refused(client, stale, "plan_already_decided", **ADA)
        third = await decide_plan(client, second, "approve")
    assert done(third) == ["+tent", "-tent"]


async def test_a_rejected_plan_is_gone_and_no_model_is_called(database_url: str) -> None:
    async with steered(database_url, in_turn(proposing(*HOUSE))) as (server, model):
        frames = await ask(server.client, "plan", "architect", **ADA)
        rejected = await decide_plan(server.client, frames, "reject", feedback="no")
        assert len(model.requests) == 1
        assert types(rejected) == ["plan_rejected"]
        assert end_of(rejected)["state"] == "idle"
        assert said_by(await server.client.say("well?", **ADA)) == ["done"]


async def test_a_plan_in_review_is_superseded_and_one_in_execution_cancelled_by_what_is_said_next(
    database_url: str,
) -> None:
    script = in_turn(proposing(*HOUSE), proposing(*HOUSE), reading(1))
    async with steered(database_url, script) as (server, _):
        client = server.client
        await ask(client, "plan", "architect", **ADA)
        second = await ask(client, "plan again", "architect", **ADA)
        assert types(second)[:2] == ["plan_superseded", "user_message_received"]
        running = await decide_plan(client, second, "approve")
        assert end_of(running)["state"] == "plan_in_execution"
        last = await client.say("stop", **ADA)
    assert types(last)[:4] == ["tool_call_closed", "plan_cancelled", "user_message_received", "switched"]
    assert on(last) == ["architect"]
    assert end_of(last)["state"] == "idle"


async def test_a_plan_cancelled_in_the_middle_ends_and_keeps_what_was_done(database_url: str) -> None:
    gate = Gate()
    steps = [step("one", "ask"), step("two", "coder", "one"), step("three", "ask", "two")]
    script = in_turn(proposing(*steps), [Text("one done")], gate.pieces())
    async with steered(database_url, script) as (server, model):
        proposed = await ask(server.client, "plan", "architect", **ADA)
        plan = data_of(proposed, "conversation.plan_proposed")[0]
        message = {
            "type": "plan_decision",
            "plan_id": plan["plan_id"],
            "plan_version": 1,
            "decision": "approve",
        }
        stream = asyncio.create_task(server.client.send(message, **ADA, turn_id="t-1"))
        await gate.reached.wait()
        await asyncio.sleep(0.1)
        await server.client.http.post("/v1/turns/t-1/cancel")
        frames = await stream
        assert len(model.requests) == 3
    check_frames(frames)
    assert done(frames) == ["+one", "-one", "+two"]
    assert types(frames)[-4:] == ["assistant_message_sent", "plan_cancelled", "turn_cancelled", "switched"]
    assert data_of(frames, "conversation.plan_cancelled")[0]["reason"] == "cancelled"
    assert end_of(frames)["state"] == "idle"


async def test_a_plan_that_cannot_be_carried_out_is_refused_to_the_model_which_may_try_again(
    database_url: str,
) -> None:
    bad: list[list[Piece]] = [
        proposing(step("a", "ask", "b"), step("b", "ask", "a")),
        proposing(step("a", "ask"), step("a", "ask")),
        proposing(step("a", "ask", "nowhere")),
        proposing(step("a", "nobody")),
        proposing(),
        proposing(*(step(str(n), "ask") for n in range(21))),
        calling(("propose_plan", {"goal": 7, "subtasks": "x"})),
    ]
    async with steered(database_url, in_turn(*bad, proposing(step("a", "ask")))) as (server, model):
        frames = await ask(server.client, "plan", "architect", **ADA)
        told = [message["content"] for message in model.requests[-1].messages if message["role"] == "tool"]
    assert len(data_of(frames, "conversation.plan_proposed")) == 1
    assert calls_of(frames) == []
    assert len(told) == len(bad)
    assert "circle" in told[0]
    assert "nobody" in told[3]
    assert end_of(frames)["state"] == "plan_in_review"


async def test_only_an_agent_that_may_plan_proposes_plans(database_url: str) -> None:
    async with steered(database_url, in_turn(proposing(step("a", "ask")))) as (server, model):
        frames = await ask(server.client, "plan", "coder", **ADA)
        assert "propose_plan" not in [tool["name"] for tool in model.requests[0].tools]
    assert data_of(frames, "conversation.plan_proposed") == []
    assert said_by(frames) == ["done"]


async def test_the_demo_plans_from_the_first_words_to_the_last_result(database_url: str) -> None:
    async with serving(database_url) as server:
        client = server.client
        frames = await client.say("plan a small file", **ADA)
        again = await decide_plan(client, frames, "modify", feedback="with a test")
        frames = await decide_plan(client, again, "approve")
        while calls := calls_of(frames):
            if end_of(frames)["waiting_for"]["decisions"]:
                await decide(client, "ada", calls[0], "approve")
            frames = await result(client, "ada", calls[0], "ok")
    assert types(frames)[-2:] == ["plan_completed", "switched"]
    assert end_of(frames)["state"] == "idle"
