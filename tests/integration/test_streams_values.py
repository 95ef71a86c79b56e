"""Values of every kind come back as they were sent: falsy, huge, strange and just as large as allowed."""

import asyncio
import json
from typing import Any

import pytest

from tests.integration.streams import (
    ask,
    calls_of,
    data_of,
    decide,
    in_turn,
    log_of,
    reading,
    refused,
    result,
    rows,
    steered,
    writing,
)
from tests.serving import serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

ADA = {"conversation_id": "ada"}
DEEP: Any = 1
for _ in range(98):
    DEEP = [DEEP]

VALUES: list[Any] = [
    None, False, 0, "", [], {}, 0.0, -0.0, True, 1, " ", "\n", 10**40, -(2**70), 2**53 + 1, 1e-320, 1.5e308,
    {"_type_": "datetime_iso", "_data_": "2026-01-01"}, {"_type_": "x", "_data_": {"_type_": 1}},
    {"class_version": 7, "": {"": []}, "\u2028": "\r\n\x1b\x7f\ufeff\N{GRINNING FACE}"},
    {"Ä": ["\uffff", "e\u0301", "\u202e"]}, DEEP, [[], {}, [None]],
]  # fmt: skip


async def test_any_json_value_is_a_result_and_comes_back_exactly(database_url: str) -> None:
    async with steered(database_url, in_turn(reading(len(VALUES)))) as (server, _):
        calls = calls_of(await server.client.say("hi", **ADA))
        for number, (call_id, value) in enumerate(zip(calls, VALUES, strict=True)):
            frames = await result(server.client, "ada", call_id, value, turn_id=f"t-{number}")
            assert _same(_received(frames), value)
            assert _same(_received(await server.client.read_turn(f"t-{number}")), value)
            again = await result(server.client, "ada", call_id, value)
            assert _same(_received(again), value)
        stored = await log_of(database_url)
    kept = [e["data"]["result"] for e in stored if e["type"] == "conversation.tool_result_received"]
    assert len(kept) == len(VALUES)
    assert all(map(_same, kept, VALUES))


def _received(frames: Any) -> Any:
    return data_of(frames, "conversation.tool_result_received")[0]["result"]


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # tells 0, 0.0, -0.0 and False apart


async def test_edited_arguments_come_back_exactly(database_url: str) -> None:
    arguments = {"path": "a", "content": {"_type_": 1, "_data_": [10**40, 0, None, False]}}
    async with steered(database_url, in_turn(writing(1))) as (server, _):
        (call_id,) = calls_of(await ask(server.client, "hi", "coder", **ADA))
        frames = await decide(server.client, "ada", call_id, "edit", arguments=arguments)
    assert _same(data_of(frames, "conversation.tool_call_edited")[0]["arguments_after"], arguments)


@pytest.mark.parametrize("text", ["x", "ü", "\u2028", "\x01", '"', "\N{GRINNING FACE}"])
async def test_what_is_exactly_as_large_as_allowed_passes_and_one_byte_more_does_not(
    database_url: str, text: str
) -> None:
    limit = 4096
    size = len(text.encode())
    whole = text * (limit // size) + "x" * (limit % size)
    async with steered(database_url, in_turn(reading(1)), max_message_bytes=limit) as (server, _):
        frames = await server.client.say(whole, **ADA)
        assert data_of(frames, "conversation.user_message_received")[0]["content"] == whole
        (call_id,) = calls_of(frames)
        more = whole + "x"
        about = {"type": "tool_result", "call_id": call_id}
        for message in (
            {"type": "user_message", "content": more},
            {**about, "result": more},
            {**about, "result": [whole]},
            {**about, "error": more},
            {"type": "hitl_decision", "call_id": call_id, "decision": "edit", "arguments": {"a": more}},
            {"type": "switch_agent", "agent": "ask", "reason": more},
        ):
            problem = await refused(server.client, message, "message_too_large", **ADA)
            assert problem["status"] == 413
        assert _received(await result(server.client, "ada", call_id, whole)) == whole


async def test_a_result_of_small_numbers_counts_without_the_spaces_that_nobody_sent(
    database_url: str,
) -> None:
    fits, more = [77] + [7] * 2046, [7] * 2048
    assert [len(json.dumps(value, separators=(",", ":"))) for value in (fits, more)] == [4096, 4097]
    async with steered(database_url, in_turn(reading(1)), max_message_bytes=4096) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        about = {"type": "tool_result", "call_id": call_id}
        await refused(server.client, {**about, "result": more}, "message_too_large", **ADA)
        assert _received(await result(server.client, "ada", call_id, fits)) == fits


async def test_half_a_million_small_numbers_are_a_result_and_keep_nobody_waiting(database_url: str) -> None:
    numbers = [7] * (2**19 - 1)
    body = {"type": "tool_result", "result": numbers}
    async with steered(database_url, in_turn(reading(1))) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        content = await asyncio.to_thread(json.dumps, {**ADA, "message": {**body, "call_id": call_id}})
        response = await server.client.http.post("/v1/messages/stream", content=content)
    assert response.status_code == 200
    assert response.text.count("7,7") > len(numbers) // 3
    assert "event: turn.committed" in response.text


async def test_a_mebibyte_is_stored_and_streamed_whole(database_url: str) -> None:
    content = "minutes " * (1024 * 1024 // 8)
    async with serving(database_url) as server:
        frames = await server.client.say(content, **ADA, turn_id="t-1")
        (stored,) = await rows(
            database_url, "SELECT length(data) FROM log WHERE type = 'conversation.user_message_received'"
        )
        again = await server.client.read_turn("t-1")
    assert data_of(frames, "conversation.user_message_received")[0]["content"] == content
    assert data_of(again, "conversation.user_message_received")[0]["content"] == content
    assert stored[0] > len(content)
