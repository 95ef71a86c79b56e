"""The frames of the five messages: exactly as the contract says, and exactly what the log says."""

import json
from typing import Any

import pytest

from tests.integration.streams import (
    as_logged,
    ask,
    calling,
    calls_of,
    check_frames,
    committed,
    data_of,
    end_of,
    in_turn,
    log_of,
    steered,
    turns_of,
    types,
)
from tests.openai_pieces import Text
from tests.serving import SseFrame, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

ANSWERED = ["user_message_received", "model_called", "assistant_message_sent"]
ADA = {"conversation_id": "ada"}
NOBODY: dict[str, Any] = {"calls": [], "decisions": [], "plan": None}


async def test_each_of_the_five_messages_streams_exactly_the_frames_of_the_contract(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        send, say = server.client.send, server.client.say
        streams = [await ask(server.client, "write a.txt", "coder", **ADA)]
        call_id = calls_of(streams[0])[0]
        streams += [
            await send({"type": "hitl_decision", "call_id": call_id, "decision": "approve"}, **ADA),
            await send({"type": "tool_result", "call_id": call_id, "result": {"ok": True}}, **ADA),
            await send({"type": "switch_agent", "agent": "architect"}, **ADA),
            await say("plan a house", **ADA),
        ]
        plan_id = data_of(streams[-1], "conversation.plan_proposed")[0]["plan_id"]
        decision = {"type": "plan_decision", "plan_id": plan_id, "plan_version": 1, "decision": "reject"}
        streams.append(await send(decision, **ADA))
        stored = await log_of(database_url)
        assert {state for _, state in await turns_of(database_url)} == {"committed"}
    for frames in streams:
        check_frames(frames)
    assert [event for frames in streams for event in as_logged(frames)] == stored
    assert [types(frames) for frames in streams] == [
        ["started", "assigned", *ANSWERED, "tool_call_requested"],
        ["tool_call_approved"],
        ["tool_result_received", "model_called", "assistant_message_sent"],
        ["switched"],
        [*ANSWERED, "plan_proposed"],
        ["plan_rejected"],
    ]
    assert [(end_of(frames)["state"], end_of(frames)["waiting_for"]) for frames in streams] == [
        ("awaiting_decision", {"calls": [call_id], "decisions": [call_id], "plan": None}),
        ("awaiting_tool_results", {"calls": [call_id], "decisions": [], "plan": None}),
        ("idle", NOBODY),
        ("idle", NOBODY),
        ("plan_in_review", {**NOBODY, "plan": {"plan_id": plan_id, "plan_version": 1}}),
        ("idle", NOBODY),
    ]


async def test_the_actor_is_who_did_it(database_url: str) -> None:
    async with serving(database_url) as server:
        frames = await server.client.say("forbidden", **ADA)
        switched = await server.client.send({"type": "switch_agent", "agent": "ask", "reason": "so"}, **ADA)
    assert [(frame.type, frame.data["actor"]) for frame in committed(frames)][:6] == [
        ("conversation.started", "user:local"),
        ("agent.assigned", "user:local"),
        ("conversation.user_message_received", "user:local"),
        ("agent.model_called", "agent:orchestrator"),
        ("conversation.assistant_message_sent", "agent:orchestrator"),
        ("conversation.tool_call_requested", "agent:orchestrator"),
    ]
    closed = next(frame for frame in frames if frame.type == "conversation.tool_call_closed")
    assert closed.data["actor"] == "system"
    assert switched[0].data["actor"] == "user:local"
    assert data_of(switched, "agent.switched") == [
        {"from": "orchestrator", "to": "ask", "reason": "so", "requested_by": "user:local"}
    ]


async def test_the_first_frame_says_what_runs_and_who_is_on(database_url: str) -> None:
    async with serving(database_url) as server:
        first = (await ask(server.client, "hi", "ask", **ADA, turn_id="t-1"))[0]
        state = (await server.client.http.get("/v1/turns/t-1")).json()
    assert first.type == "turn.started"
    assert first.data == {
        "conversation_id": "ada", "turn_id": "t-1", "seq": 1,
        "kind": "user_message", "actor": "user:local", "agent": "ask", "started_at": state["accepted_at"],
    }  # fmt: skip


@pytest.mark.parametrize("path", ["live", "replayed"])
async def test_a_stream_has_the_headers_of_the_contract_and_lf_line_ends_only(
    database_url: str, path: str
) -> None:
    async with serving(database_url) as server:
        body = {"turn_id": "t-1", "message": {"type": "user_message", "content": "zwölf\r\nZeilen\u2028"}}
        async with server.client.stream(body) as response:
            raw = await response.aread()
        if path == "replayed":
            response = await server.client.http.get("/v1/turns/t-1/stream")
            raw = response.content
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert b"\r" not in raw
    assert raw.endswith(b"\n\n")
    for message in raw.decode().removesuffix("\n\n").split("\n\n"):
        names = [line.partition(": ")[0] for line in message.split("\n")]
        assert names == ["id", "event", "data"]


async def test_the_deltas_are_the_pieces_of_the_message_that_is_stored(database_url: str) -> None:
    pieces = [Text("Grüße, "), Text("\u2028 "), Text("\N{GRINNING FACE}"), Text(" \x00end")]
    async with steered(database_url, in_turn(pieces)) as (server, _):
        frames = await server.client.say("hi")
    check_frames(frames)
    deltas = [frame.data for frame in frames if frame.type == "turn.delta"]
    (sent,) = data_of(frames, "conversation.assistant_message_sent")
    assert "".join(delta["text"] for delta in deltas) == sent["content"]
    assert sent["content"] == "Grüße, \u2028 \N{GRINNING FACE} \ufffdend"
    assert {delta["message_id"] for delta in deltas} == {sent["message_id"]}
    assert {delta["agent"] for delta in deltas} == {sent["agent"]} == {"orchestrator"}
    assert sent["truncated"] is False
    assert sent["finish_reason"] == "stop"


async def test_a_hand_over_is_told_while_it_happens_and_its_tool_never_reaches_the_client(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        frames = await server.client.say("write a.txt")
    check_frames(frames)
    told = next(frame for frame in frames if frame.type == "turn.status")
    assert told.data["text"] == "coder takes over"
    assert told.data["detail"]["agent"] == "coder"
    assert [call["tool"] for call in data_of(frames, "conversation.tool_call_requested")] == ["write_file"]
    assert data_of(frames, "agent.switched")[0]["requested_by"] == "agent:orchestrator"


async def test_what_a_model_cost_is_noted_with_its_answer(database_url: str) -> None:
    async with steered(database_url, in_turn(calling(("read_file", {"path": "a"})))) as (server, _):
        frames = await server.client.say("hi")
    (called,) = data_of(frames, "agent.model_called")
    assert called["duration_ms"] >= 0
    assert {name: called[name] for name in called if name != "duration_ms"} == {
        "agent": "orchestrator", "model": "openai:x", "input_tokens": 7, "output_tokens": 5,
        "outcome": "tool_calls",
    }  # fmt: skip


async def test_ids_are_made_where_the_client_gives_none(database_url: str) -> None:
    async with serving(database_url) as server:
        first, second = [await server.client.say("hi") for _ in range(2)]
    ids = [first[0].data["turn_id"], second[0].data["turn_id"]]
    ids += [frames[0].data["conversation_id"] for frames in (first, second)]
    assert len(set(ids)) == 4


async def test_a_frame_is_its_event_byte_for_byte_in_a_replay(database_url: str) -> None:
    async with serving(database_url) as server:
        live = await ask(server.client, "both", "coder", turn_id="t-1")
        again = await server.client.read_turn("t-1", "1.1")
    assert _rest(live) == [(frame.id, frame.type, json.dumps(frame.data)) for frame in again]


def _rest(frames: list[SseFrame]) -> list[tuple[str | None, str, str]]:
    stored = [*committed(frames), frames[-1]]
    return [(frame.id, frame.type, json.dumps(frame.data)) for frame in stored]
