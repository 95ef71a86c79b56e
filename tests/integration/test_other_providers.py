"""Providers with formats of their own answer in the same chunks as the others."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from application import errors
from application.language_model import (
    CallMade,
    Finished,
    ModelMessage,
    ModelRequest,
    ResultGiven,
    Said,
    TextDelta,
    Tool,
    ToolCall,
)
from infrastructure.models.providers import ProviderModels

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

KEY = "sk-very-secret-key"
READ = Tool(
    "read_file",
    "Reads.",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


def request(
    *messages: ModelMessage, model: str = "openai:gpt-test", tools: tuple[Tool, ...] = ()
) -> ModelRequest:
    return ModelRequest(model, "coder", "Be brief.", messages or (Said("user", "Hello"),), tools)


def _anthropic_stream(*, ends: bool) -> bytes:
    """Return an answer with a text and a call in pieces, as Anthropic streams it."""
    start: dict[str, object] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "x",
        "content": [],
        "stop_reason": None,
    }
    start |= {"stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 1}}
    tool = {"type": "tool_use", "id": "toolu_1", "name": "read_file", "input": {}}
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": tool},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"path"'},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": ': "a"}'},
        },
        {"type": "content_block_stop", "index": 1},
    ]
    if ends:
        delta = {"stop_reason": "tool_use", "stop_sequence": None}
        events += [
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


@asynccontextmanager
async def anthropic(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[dict[str, Any]]]:
    bodies: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + answer
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{port}")
        yield bodies


async def test_another_provider_answers_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    history = (
        Said("user", "Look."),
        Said("assistant", "I look."),
        CallMade("toolu_0", "read_file", '{"path":"a"}'),
        ResultGiven("toolu_0", "read_file", "A"),
    )
    async with anthropic(_anthropic_stream(ends=True), monkeypatch) as bodies:
        models = ProviderModels()
        chunks = [
            c async for c in models.answer(request(*history, model="anthropic:claude-x", tools=(READ,)))
        ]
        await models.aclose()

    assert chunks == [
        TextDelta("Hel"),
        TextDelta("lo"),
        ToolCall("toolu_1", "read_file", '{"path": "a"}'),
        Finished("tool_calls", 9, 4),
    ]
    assert [message["role"] for message in bodies[0]["messages"]] == ["user", "assistant", "user"]
    assert [part["type"] for part in bodies[0]["messages"][1]["content"]] == ["text", "tool_use"]


async def test_ids_a_model_used_again_are_told_apart_for_a_provider_that_insists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, given = CallMade("id", "read_file", "{}"), ResultGiven("id", "read_file", "A")
    async with anthropic(_anthropic_stream(ends=True), monkeypatch) as bodies:
        models = ProviderModels()
        history = (Said("user", "Look."), made, given, made, given)
        [_ async for _ in models.answer(request(*history, model="anthropic:claude-x", tools=(READ,)))]
        await models.aclose()

    parts = [part for message in bodies[0]["messages"][1:] for part in message["content"]]
    ids = [part.get("id") or part.get("tool_use_id") for part in parts]
    assert ids == ["id", "id", "id_2", "id_2"]


async def test_another_provider_that_breaks_off_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with anthropic(_anthropic_stream(ends=False), monkeypatch):
        models = ProviderModels()
        with pytest.raises(errors.ModelUnavailableError):
            [_ async for _ in models.answer(request(model="anthropic:claude-x"))]
        await models.aclose()
