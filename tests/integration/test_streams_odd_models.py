"""Whatever a model sends is kept so that everybody can read it: its watchers, feeds, replays and itself."""

import json
from secrets import token_hex
from typing import Any

import pytest

from tests.integration.streams import (
    ask,
    calling,
    calls_of,
    check_frames,
    committed,
    data_of,
    end_of,
    in_turn,
    reading,
    result,
    said_by,
    steered,
)
from tests.integration.test_feeds import feed, take
from tests.openai_pieces import CallPiece, Finish, Piece, Text, call
from tests.openai_server import ChatRequest

ADA = {"conversation_id": "ada"}
HALF = "a\ud800b"
ODD = {"half a pair": HALF, "two megabytes": token_hex(2**20), "NUL": "a\x00b"}


def told(request: ChatRequest) -> list[str]:
    """Return what a request says of the calls before."""
    return [message["content"] for message in request.messages if message["role"] == "tool"]


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
async def test_a_tool_of_any_name_is_read_by_its_watchers_feeds_replays_and_its_model(
    database_url: str, name: str
) -> None:
    script = in_turn([*call(0, "x", name, "{}"), *call(1, "y", "read_file", '{"path": "a"}')])
    async with steered(database_url, script) as (server, model):
        async with feed(server, "/v1/feed", "0") as items:
            frames = await server.client.say("hi", **ADA, turn_id="t-1")
            told_live = await take(items, "conversation.tool_call_closed")
            _, free = calls_of(frames)
            assert end_of(frames)["waiting_for"]["calls"] == [free]
            again = await server.client.read_turn("t-1")
            last = await result(server.client, "ada", free)
            assert (await take(items, "conversation.assistant_message_sent"))[-1].id
        assert "has no tool" in told(model.requests[1])[0]
    check_frames(frames)
    assert said_by(last) == ["done"]
    assert again == [*committed(frames), frames[-1]]
    (closed,) = data_of(frames, "conversation.tool_call_closed")
    assert [item.data["data"] for item in told_live if item.type.endswith("tool_call_closed")] == [closed]
    assert len(closed["tool"]) <= 128
    assert closed["tool"] in closed["detail"]
    assert len(closed["detail"]) < 250
    assert closed["tool"].replace("\ufffd", "").isascii()


async def test_odd_texts_of_a_model_are_kept_readable_wherever_they_stand(database_url: str) -> None:
    said: list[Piece] = [Text(HALF), Text("\ud83d"), Text("\x00")]
    script = in_turn([*said, CallPiece(0, '{"path": "a"}', HALF + "i" * 1000, "read_file")])
    async with steered(database_url, script) as (server, _):
        frames = await server.client.say("hi", **ADA)
    check_frames(frames)
    deltas = [frame.data["text"] for frame in frames if frame.type == "turn.delta"]
    assert said_by(frames) == ["".join(deltas)] == ["a\ufffdb\ufffd\ufffd"]
    (asked,) = data_of(frames, "conversation.tool_call_requested")
    assert asked["model_call_id"] == "a\ufffdb" + "i" * 252


async def test_a_reason_to_end_that_nobody_knows_is_a_failure_of_the_model(database_url: str) -> None:
    async with steered(database_url, in_turn([Text("so"), Finish(HALF)])) as (server, _):
        frames = await server.client.say("hi", **ADA)
    assert end_of(frames)["code"] == "model_unavailable"


def _handing_over(reason: str) -> list[Piece]:
    return calling(("switch_agent", {"agent": "ask", "reason": reason}))


def _proposing(**changes: Any) -> list[Piece]:
    step = {"id": "1", "description": "d", "agent": "ask"}
    return calling(
        ("propose_plan", {"goal": "g", "subtasks": [{**step, **changes.pop("step", {})}], **changes})
    )


OURS: dict[str, list[Piece]] = {
    "reason": _handing_over("x" * 4096),
    "goal": _proposing(goal="x" * 4096),
    "description": _proposing(step={"description": "x" * 4096}),
}


@pytest.mark.parametrize("pieces", OURS.values(), ids=OURS)
async def test_arguments_of_our_tools_above_the_limit_are_refused_to_the_model(
    database_url: str, pieces: list[Piece]
) -> None:
    script = in_turn(pieces, reading(1))
    async with steered(database_url, script, max_message_bytes=4096) as (server, model):
        frames = await ask(server.client, "hi", "architect", **ADA)
        assert told(model.requests[1]) == ["The arguments are larger than 4096 bytes."]
    assert not data_of(frames, "agent.switched")
    assert not data_of(frames, "conversation.plan_proposed")
    assert all(len(json.dumps(frame.data)) < 4096 for frame in frames)


HALVES: dict[str, list[Piece]] = {
    "reason": _handing_over(HALF),
    "goal": _proposing(goal=HALF),
    "id": _proposing(step={"id": HALF}),
    "description": _proposing(step={"description": HALF}),
    "agent": _proposing(step={"agent": HALF}),
    "no object": [*call(0, "x", "switch_agent", "[1]")],
}


@pytest.mark.parametrize("pieces", HALVES.values(), ids=HALVES)
async def test_arguments_of_our_tools_that_no_log_can_keep_are_refused_to_the_model(
    database_url: str, pieces: list[Piece]
) -> None:
    async with steered(database_url, in_turn(pieces)) as (server, model):
        frames = await ask(server.client, "hi", "architect", **ADA)
        assert "not a JSON object" in told(model.requests[1])[0]
    check_frames(frames)
    assert said_by(frames) == ["done"]
    assert not data_of(frames, "agent.switched")
