"""Tool calls: several in one answer, free, decided or forbidden, and exactly one result for each."""

import asyncio
import json
from secrets import token_hex
from typing import Any

import pytest

from tests.asking import query
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
    reading,
    refused,
    result,
    said_by,
    steered,
    types,
    writing,
)
from tests.openai_pieces import Text, call
from tests.openai_server import ChatRequest
from tests.serving import serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

ADA = {"conversation_id": "ada"}
RESULTS = ("tool_result_received", "tool_call_rejected", "tool_call_closed")


def tool_messages(request: ChatRequest) -> list[tuple[str, str]]:
    """Return the calls of a request and the results that follow them, checking that they match."""
    open_calls: list[str] = []
    found: list[tuple[str, str]] = []
    for message in request.messages:
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
            found.append((message["tool_call_id"], message["content"]))
        else:
            assert not open_calls, "something was said before every call had its result"
            open_calls = [made["id"] for made in message.get("tool_calls") or ()]
    assert not open_calls
    assert len(set(found)) == len({call_id for call_id, _ in found}), "an id stands for two calls"
    return found


def results_by_call(stored: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what ended each call that was ever requested."""
    calls: dict[str, list[str]] = {}
    for event in stored:
        kind = event["type"].partition(".")[2]
        if kind == "tool_call_requested":
            calls[event["data"]["call_id"]] = []
        elif kind in RESULTS:
            calls[event["data"]["call_id"]].append(kind)
    return calls


async def test_several_calls_of_one_answer_are_all_kept_in_order_each_after_its_own_kind(
    database_url: str,
) -> None:
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("read_file", {"path": "a.txt"}),
        ("write_file", {"path": "b.txt", "content": ""}),
        ("no_such_tool", {"x": [1, None]}),
        ("write_file", {"path": "../c.txt", "content": "out"}),
        ("list_files", {}),
    ]
    async with steered(database_url, in_turn(calling(*wanted, text="Let me see."))) as (server, _):
        frames = await ask(server.client, "hi", "coder", **ADA)
    check_frames(frames)
    asked = data_of(frames, "conversation.tool_call_requested")
    assert [(said["tool"], said["arguments"]) for said in asked] == wanted
    assert [said["requires_decision"] for said in asked] == [False, True, True, True, False]
    assert [said["rule"] for said in asked] == [
        "reading",
        "changing",
        "unknown_tool",
        "file_patterns",
        "reading",
    ]
    assert [said["model_call_id"] for said in asked] == [f"call_{n}" for n in range(5)]
    assert len({said["call_id"] for said in asked}) == 5
    closed = data_of(frames, "conversation.tool_call_closed")
    assert [(said["call_id"], said["reason"]) for said in closed] == [
        (asked[2]["call_id"], "forbidden"), (asked[3]["call_id"], "forbidden")
    ]  # fmt: skip
    waiting = [asked[0]["call_id"], asked[1]["call_id"], asked[4]["call_id"]]
    assert end_of(frames)["waiting_for"] == {"calls": waiting, "decisions": [waiting[1]], "plan": None}
    assert end_of(frames)["state"] == "awaiting_decision"


async def test_a_forbidden_call_never_waits_and_the_model_is_told_in_the_same_turn(
    database_url: str,
) -> None:
    script = in_turn(calling(("delete_all", {})), [Text("Then not.")])
    async with steered(database_url, script) as (server, model):
        frames = await server.client.say("hi", **ADA)
        told = tool_messages(model.requests[1])
        (call_id,) = calls_of(frames)
        await refused(
            server.client, {"type": "tool_result", "call_id": call_id, "result": 1}, "call_closed", **ADA
        )
        approve = {"type": "hitl_decision", "call_id": call_id, "decision": "approve"}
        await refused(server.client, approve, "call_closed", **ADA)
    assert said_by(frames) == ["Then not."]
    assert end_of(frames)["state"] == "idle"
    assert len(told) == 1
    assert "forbidden" in told[0][1]


async def test_names_of_any_length_stop_no_read_model(database_url: str) -> None:
    name, step = token_hex(3_000), {"id": token_hex(3_000), "description": "d", "agent": "ask"}
    plan = ("propose_plan", {"goal": "g", "subtasks": [step]})
    script = in_turn(calling((name, {}), plan), [Text("Then not.")])
    async with steered(database_url, script, projections=True) as (server, _):
        frames = await ask(server.client, "hi", "architect", **ADA)
        behind = "SELECT 1 FROM projections, log_head h WHERE projections.position < h.position"
        while await asyncio.to_thread(query, database_url, behind):
            ready = (await server.client.http.get("/health/ready")).json()
            assert ready["projections"] == "ok"
            await asyncio.sleep(0.05)
    (asked,) = data_of(frames, "conversation.tool_call_requested")
    assert (asked["tool"], asked["rule"]) == (name[:128], "unknown_tool")
    assert not data_of(frames, "conversation.plan_proposed")


@pytest.mark.parametrize(
    "arguments",
    ['{"path": "half', "[1]", "7", '"text"', "null", '{"path": NaN}', '{"path": "\\ud800"}', "{" * 5000],
)
async def test_arguments_that_are_no_json_object_are_kept_as_text_and_refused_to_the_model(
    database_url: str, arguments: str
) -> None:
    script = in_turn(call(0, "x", "read_file", arguments), [Text("Sorry.")])
    async with steered(database_url, script) as (server, model):
        frames = await server.client.say("hi", **ADA)
        told = tool_messages(model.requests[1])
    check_frames(frames)
    (asked,) = data_of(frames, "conversation.tool_call_requested")
    assert (asked["arguments"], asked["rule"]) == (arguments, "invalid_arguments")
    assert [said["reason"] for said in data_of(frames, "conversation.tool_call_closed")] == ["forbidden"]
    assert "not a JSON object" in told[0][1]
    assert said_by(frames) == ["Sorry."]


async def test_arguments_above_the_limit_are_refused_to_the_model(database_url: str) -> None:
    exact = json.dumps({"path": "a", "content": ""})
    fits = json.dumps({"path": "a", "content": "x" * (2048 - len(exact))})
    script = in_turn(call(0, "x", "write_file", fits[:-2] + 'x"}'), call(0, "y", "write_file", fits))
    async with steered(database_url, script, max_message_bytes=2048) as (server, _):
        frames = await ask(server.client, "hi", "coder", **ADA)
    asked = data_of(frames, "conversation.tool_call_requested")
    assert [said["rule"] for said in asked] == ["arguments_too_large", "changing"]
    assert end_of(frames)["waiting_for"]["calls"] == [asked[1]["call_id"]]


async def test_edited_arguments_are_what_the_client_is_told_to_run_and_the_model_hears_of_them(
    database_url: str,
) -> None:
    async with steered(database_url, in_turn(writing(1))) as (server, model):
        (call_id,) = calls_of(await ask(server.client, "hi", "coder", **ADA))
        edited = await decide(
            server.client,
            "ada",
            call_id,
            "edit",
            arguments={"path": "z.txt", "content": ""},
            feedback="not 0",
        )
        await result(server.client, "ada", call_id, "written")
        told = json.dumps(model.requests[1].messages)
        tool_messages(model.requests[1])
    assert data_of(edited, "conversation.tool_call_edited") == [
        {
            "call_id": call_id, "tool": "write_file", "feedback": "not 0",
            "arguments_before": {"path": "0.txt", "content": "0"},
            "arguments_after": {"path": "z.txt", "content": ""},
        }
    ]  # fmt: skip
    assert end_of(edited)["waiting_for"] == {"calls": [call_id], "decisions": [], "plan": None}
    assert "z.txt" in told
    assert "not 0" in told


async def test_an_approved_call_is_announced_with_its_arguments(database_url: str) -> None:
    async with steered(database_url, in_turn(writing(1))) as (server, _):
        (call_id,) = calls_of(await ask(server.client, "hi", "coder", **ADA))
        frames = await decide(server.client, "ada", call_id, "approve", feedback="go")
    arguments = {"path": "0.txt", "content": "0"}
    assert data_of(frames, "conversation.tool_call_approved") == [
        {"call_id": call_id, "tool": "write_file", "arguments": arguments, "feedback": "go"}
    ]


async def test_a_rejected_call_is_answered_with_the_feedback_and_the_agent_goes_on(database_url: str) -> None:
    async with steered(database_url, in_turn(writing(1), [Text("I see.")])) as (server, model):
        (call_id,) = calls_of(await ask(server.client, "hi", "coder", **ADA))
        frames = await decide(server.client, "ada", call_id, "reject", feedback="too risky")
        told = tool_messages(model.requests[1])
        message = {"type": "tool_result", "call_id": call_id, "result": 1}
        await refused(server.client, message, "call_already_answered", **ADA)
    assert types(frames) == ["tool_call_rejected", "model_called", "assistant_message_sent"]
    assert len(told) == 1
    assert "too risky" in told[0][1]


async def test_a_client_cannot_skip_the_person_by_sending_the_result(database_url: str) -> None:
    async with serving(database_url) as server:
        (call_id,) = calls_of(await ask(server.client, "write a.txt", "coder", **ADA))
        for outcome in ({"result": "done"}, {"error": "no"}):
            message = {"type": "tool_result", "call_id": call_id, **outcome}
            problem = await refused(server.client, message, "call_not_approved", **ADA)
            assert problem["status"] == 409
        await decide(server.client, "ada", call_id, "approve")
        assert types(await result(server.client, "ada", call_id))[0] == "tool_result_received"


async def test_the_agent_goes_on_only_when_every_call_has_its_result(database_url: str) -> None:
    script = in_turn([*reading(1), *call(1, "w", "write_file", '{"path": "b", "content": ""}')])
    async with steered(database_url, script) as (server, model):
        free, asked = calls_of(await ask(server.client, "hi", "coder", **ADA))
        first = await result(server.client, "ada", free)
        assert end_of(first)["state"] == "awaiting_decision"
        assert types(first) == ["tool_result_received"]
        assert len(model.requests) == 1
        last = await decide(server.client, "ada", asked, "reject")
        assert said_by(last) == ["done"]


async def test_what_the_person_says_next_supersedes_open_calls_and_the_model_view_stays_well_formed(
    database_url: str,
) -> None:
    script = in_turn([*reading(2), *call(2, "w", "write_file", '{"path": "b", "content": ""}')])
    async with steered(database_url, script) as (server, model):
        calls = calls_of(await ask(server.client, "hi", "coder", **ADA))
        await result(server.client, "ada", calls[1], "kept")
        frames = await server.client.say("never mind", **ADA)
        told = tool_messages(model.requests[1])
        for call_id in (calls[0], calls[2]):
            late = {"type": "tool_result", "call_id": call_id, "result": 1}
            await refused(server.client, late, "call_closed", **ADA)
        stored = await log_of(database_url)
    assert types(frames)[:3] == ["tool_call_closed", "tool_call_closed", "user_message_received"]
    assert {said["reason"] for said in data_of(frames, "conversation.tool_call_closed")} == {"superseded"}
    assert [content == "kept" for _, content in told] == [False, True, False]
    assert {len(ended) for ended in results_by_call(stored).values()} == {1}


async def test_a_model_that_uses_its_ids_again_is_told_apart(database_url: str) -> None:
    async with steered(database_url, in_turn(*[reading(2)] * 4)) as (server, model):
        frames = await server.client.say("hi", **ADA)
        for turn in range(4):
            first, second = calls_of(frames)
            await result(server.client, "ada", first, f"{turn}a")
            frames = await result(server.client, "ada", second, f"{turn}b")
        told = tool_messages(model.requests[-1])
        stored = await log_of(database_url)
    assert [content for _, content in told] == [f"{turn}{side}" for turn in range(4) for side in "ab"]
    assert {len(ended) for ended in results_by_call(stored).values()} == {1}


async def test_an_error_of_a_tool_is_its_result(database_url: str) -> None:
    async with steered(database_url, in_turn(reading(1))) as (server, model):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        message = {"type": "tool_result", "call_id": call_id, "error": "no such file"}
        frames = await server.client.send(message, **ADA)
        assert "no such file" in tool_messages(model.requests[1])[0][1]
    (received,) = data_of(frames, "conversation.tool_result_received")
    assert (received["result"], received["error"]) == (None, "no such file")
