"""The providers' models over real HTTP: what goes out, what comes back, and what goes wrong."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from application import errors
from application.ports import (
    CallMade,
    Finished,
    ModelChunk,
    ModelMessage,
    ModelRequest,
    ResultGiven,
    Said,
    TextDelta,
    Tool,
    ToolCall,
)
from infrastructure.models import build_models
from infrastructure.models.providers import ProviderModels
from infrastructure.models.router import ModelNotFoundError, ModelSettingError
from tests.openai_server import (
    ChatRequest,
    Cut,
    EndEarly,
    Finish,
    OpenAIServer,
    Pause,
    Piece,
    Refusal,
    Script,
    Status,
    StreamError,
    Text,
    Usage,
    call,
    recorded,
)

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


@asynccontextmanager
async def served(
    script: Script, timeout_s: float = 5.0
) -> AsyncIterator[tuple[ProviderModels, OpenAIServer]]:
    async with OpenAIServer(script) as server:
        models = ProviderModels(base_url=server.base_url, api_key=KEY, timeout_s=timeout_s)
        try:
            yield models, server
        finally:
            await models.aclose()


def says(*pieces: Piece) -> Script:
    return lambda _: pieces


async def answer(script: Script, *messages: ModelMessage, timeout_s: float = 5.0) -> list[ModelChunk]:
    async with served(script, timeout_s) as (models, _):
        return [chunk async for chunk in models.answer(request(*messages))]


async def sent(*messages: ModelMessage, tools: tuple[Tool, ...] = ()) -> ChatRequest:
    async with served(says(Text("ok"))) as (models, server):
        [_ async for _ in models.answer(request(*messages, tools=tools))]
        return server.requests[0]


async def test_text_comes_piece_by_piece_with_the_tokens_at_the_end() -> None:
    chunks = await answer(says(Text("Hel"), Text("lo\n"), Text(" there"), Usage((11, 3))))

    assert chunks == [TextDelta("Hel"), TextDelta("lo\n"), TextDelta(" there"), Finished("stop", 11, 3)]


async def test_each_delta_arrives_before_the_next_is_sent() -> None:
    gate = asyncio.Event()

    async def script(_: ChatRequest) -> AsyncIterator[Piece]:
        yield Text("first")
        await gate.wait()
        yield Text("second")

    async with served(script) as (models, _), aclosing(models.answer(request())) as chunks:
        assert await anext(chunks) == TextDelta("first")
        gate.set()
        assert await anext(chunks) == TextDelta("second")


async def test_calls_in_pieces_become_whole_calls_in_order() -> None:
    first = call(0, "id-1", "read_file", '{"path": "a \\"b\\".py"}', size=3)
    second = call(1, "id-2", "read_file", '{"path": "ü.py", "n": 12345678901234567890123}', size=4)
    mixed = [piece for pair in zip(first, second, strict=False) for piece in pair]
    rest = [*first[len(mixed) // 2 :], *second[len(mixed) // 2 :]]

    chunks = await answer(says(Text("Look: "), *mixed, *rest))

    assert chunks == [
        TextDelta("Look: "),
        ToolCall("id-1", "read_file", '{"path": "a \\"b\\".py"}'),
        ToolCall("id-2", "read_file", '{"path": "ü.py", "n": 12345678901234567890123}'),
        Finished("tool_calls", 7, 5),
    ]


async def test_malformed_arguments_are_handed_on_as_the_model_sent_them() -> None:
    chunks = await answer(says(*call(0, "id", "read_file", '{"path": "a', size=2)))

    assert chunks[0] == ToolCall("id", "read_file", '{"path": "a')


async def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert (await answer(says(*call(0, "id", "think", ""))))[0] == ToolCall("id", "think", "{}")


async def test_tokens_nobody_reports_are_zero() -> None:
    assert (await answer(says(Text("x"), Usage(None))))[-1] == Finished("stop", 0, 0)


async def test_an_answer_cut_off_at_its_length_says_so() -> None:
    assert (await answer(says(Text("x"), Finish("length"))))[-1] == Finished("length", 7, 5)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([Status(400)], errors.ModelRefusedError),
        ([Status(401)], errors.ModelAuthError),
        ([Status(403)], errors.ModelAuthError),
        ([Status(404)], errors.ModelRefusedError),
        ([Status(408)], errors.ModelTimeoutError),
        ([Status(422)], errors.ModelRefusedError),
        ([Status(429)], errors.ModelRateLimitedError),
        ([Status(500)], errors.ModelUnavailableError),
        ([Status(503)], errors.ModelUnavailableError),
        ([Status(529)], errors.ModelUnavailableError),
        ([Text("half an"), Cut()], errors.ModelUnavailableError),
        ([*call(0, "id", "read_file", '{"pa'), Cut()], errors.ModelUnavailableError),
        ([Text("half an"), EndEarly()], errors.ModelUnavailableError),
        ([EndEarly()], errors.ModelUnavailableError),
        ([Text("half an"), Finish(None)], errors.ModelUnavailableError),
        ([Text("half an"), StreamError()], errors.ModelUnavailableError),
        ([Refusal("I "), Refusal("won't")], errors.ModelRefusedError),
        ([Text("filth"), Finish("content_filter")], errors.ModelRefusedError),
    ],
)
async def test_what_goes_wrong_has_its_code(pieces: list[Piece], error: type[errors.ModelError]) -> None:
    with pytest.raises(errors.ModelError) as caught:
        await answer(says(*pieces))

    assert type(caught.value) is error


@pytest.mark.parametrize("pieces", [[Pause(30)], [Text("wait"), Pause(30)]])
async def test_silence_is_a_timeout(pieces: list[Piece]) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(errors.ModelTimeoutError):
        await answer(says(*pieces), timeout_s=0.3)

    assert asyncio.get_running_loop().time() - started < 3


async def test_a_slow_answer_and_a_slow_reader_are_no_timeout() -> None:
    async with served(says(*cast("list[Piece]", [Text("a"), Pause(0.15)]) * 4), timeout_s=0.4) as (models, _):
        async for _ in models.answer(request()):
            await asyncio.sleep(0.15)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with OpenAIServer(says()) as server:
        base_url = server.base_url
    models = ProviderModels(base_url=base_url, api_key=KEY)
    with pytest.raises(errors.ModelUnavailableError):
        [_ async for _ in models.answer(request())]
    await models.aclose()


@pytest.mark.parametrize("piece", [Status(429), Status(500), Cut()])
async def test_nothing_is_tried_twice(piece: Piece) -> None:
    async with served(says(piece)) as (models, server):
        with pytest.raises(errors.ModelError):
            [_ async for _ in models.answer(request())]

        assert len(server.requests) == 1


async def test_closing_the_answer_closes_the_request() -> None:
    async with served(says(Text("one"), Pause(30))) as (models, server):
        async with aclosing(models.answer(request())) as chunks:
            assert await anext(chunks) == TextDelta("one")
        await asyncio.wait_for(server.disconnected.wait(), 1)


async def test_cancelling_the_reader_closes_the_request() -> None:
    async with served(says(Text("one"), Pause(30))) as (models, server):
        reached = asyncio.Event()

        async def read() -> None:
            async with aclosing(models.answer(request())) as chunks:
                async for _ in chunks:
                    reached.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(reached.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.disconnected.wait(), 1)


async def test_the_history_goes_out_as_it_was() -> None:
    history: list[ModelMessage] = [
        Said("user", "Look at both."),
        Said("assistant", "I look."),
        CallMade("id-1", "read_file", '{"path":"a"}'),
        CallMade("id-2", "read_file", '{"path":"b"}'),
        ResultGiven("id-1", "read_file", "A"),
        ResultGiven("id-2", "read_file", ""),
        Said("assistant", "A and nothing."),
        Said("user", "And c?"),
        CallMade("id-1", "read_file", '{"path":"c"}'),
        ResultGiven("id-1", "read_file", "null"),
        Said("user", "Stop."),
        Said("user", "Thanks."),
    ]
    messages = (await sent(*history)).messages

    def made(call_id: str, path: str) -> dict[str, object]:
        function = {"name": "read_file", "arguments": json.dumps({"path": path}, separators=(",", ":"))}
        return {"id": call_id, "type": "function", "function": function}

    assert [{key: value for key, value in message.items() if value is not None} for message in messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look at both."},
        {"role": "assistant", "content": "I look.", "tool_calls": [made("id-1", "a"), made("id-2", "b")]},
        {"role": "tool", "tool_call_id": "id-1", "content": "A"},
        {"role": "tool", "tool_call_id": "id-2", "content": ""},
        {"role": "assistant", "content": "A and nothing."},
        {"role": "user", "content": "And c?"},
        {"role": "assistant", "tool_calls": [made("id-1", "c")]},
        {"role": "tool", "tool_call_id": "id-1", "content": "null"},
        {"role": "user", "content": "Stop."},
        {"role": "user", "content": "Thanks."},
    ]


async def test_two_answers_in_a_row_stay_two() -> None:
    messages = (
        await sent(Said("assistant", "One."), Said("assistant", "Two."), Said("user", "Go on."))
    ).messages

    assert [message["content"] for message in messages[1:]] == ["One.", "Two.", "Go on."]


async def test_arguments_that_are_not_json_can_go_out_again() -> None:
    history = (
        CallMade("id", "read_file", '{"path": "a'),
        ResultGiven("id", "read_file", "That was not JSON."),
    )
    arguments = (await sent(*history)).messages[1]["tool_calls"][0]["function"]["arguments"]

    assert '{"path": "a' in json.loads(arguments).values()


async def test_tools_go_out_as_they_are_described() -> None:
    out = await sent(Said("user", "Hi"), tools=(READ,))

    assert [(tool["name"], tool["description"], tool["parameters"]) for tool in out.tools] == [
        (READ.name, READ.description, READ.parameters)
    ]
    assert out.headers["authorization"] == f"Bearer {KEY}"
    assert out.model == "gpt-test"


async def test_a_recorded_answer_comes_back_as_it_was() -> None:
    calls = [{"id": "x", "name": "read_file", "arguments": '{"path":"a"}'}]
    chunks = await answer(lambda _: recorded({"content": "A long and winding text.", "tool_calls": calls}))

    assert (
        "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta)) == "A long and winding text."
    )
    assert ToolCall("x", "read_file", '{"path":"a"}') in chunks


@pytest.mark.parametrize("piece", [Status(401, f"Incorrect key {KEY}."), Status(500, f"Boom {KEY}"), Cut()])
async def test_keys_and_a_providers_words_reach_neither_log_nor_error(
    piece: Piece, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(errors.ModelError) as caught:
        await answer(says(piece))
    logging.getLogger("test").error("failed", exc_info=caught.value)

    assert KEY not in caplog.text
    assert "Incorrect" not in caplog.text
    assert "Boom" not in caplog.text
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("name", ["gpt-4o", "nobody:gpt", "openai:", ":x", "test", "anthropic"])
def test_an_unknown_model_stops_the_start_with_one_sentence(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^There is no model called '.*': a model is demo or"):
        build_models("demo", ["demo", None, name], api_key=KEY)


@pytest.mark.parametrize(
    ("name", "key"), [("openai:gpt-4o", "OPENAI_API_KEY"), ("anthropic:x", "ANTHROPIC_API_KEY")]
)
def test_a_missing_key_stops_the_start_with_one_sentence(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(key, raising=False)
    with pytest.raises(
        ModelSettingError, match=rf"^The model {name} needs the environment variable {key}\.$"
    ):
        build_models(name)


async def test_a_missing_key_at_a_call_is_an_error_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(errors.ModelAuthError):
        [_ async for _ in ProviderModels().answer(request())]


async def test_the_router_sends_each_request_to_its_model() -> None:
    async with OpenAIServer(says(Text("ok"))) as server:
        router = build_models("openai:default", ["openai:other"], base_url=server.base_url, api_key=KEY)
        for model in ("", "openai:other", cast("str", None)):
            [_ async for _ in router.answer(request(model=model))]
        await router.aclose()

    assert [got.model for got in server.requests] == ["default", "other", "default"]


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
