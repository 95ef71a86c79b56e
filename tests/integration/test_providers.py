"""The providers' models over real HTTP: what goes out, what comes back, and what goes wrong."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

import pytest

from application import errors
from application.language_model import (
    Finished,
    ModelChunk,
    ModelMessage,
    ModelRequest,
    Said,
    TextDelta,
    Tool,
    ToolCall,
)
from infrastructure.models.providers import ProviderModels
from tests.openai_pieces import (
    Cut,
    EndEarly,
    Finish,
    Pause,
    Piece,
    Refusal,
    Status,
    StreamError,
    Text,
    Usage,
    call,
)
from tests.openai_server import ChatRequest, OpenAIServer, Script

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


async def test_text_comes_piece_by_piece_with_the_tokens_at_the_end() -> None:
    chunks = await answer(says(Text("Hel"), Text("lo\n"), Text(" there"), Usage((11, 3))))

    assert chunks == [TextDelta("Hel"), TextDelta("lo\n"), TextDelta(" there"), Finished("stop", 11, 3)]


@pytest.mark.may_block("ten megabytes are written and read on the loop of the test")
async def test_a_delta_of_a_long_answer_costs_no_more_than_one_of_a_short_answer() -> None:
    deltas, took = 2_000, []
    for size in (5, 5_000):
        begun = time.process_time()
        chunks = await answer(says(*[Text("a" * size)] * deltas))
        took.append(time.process_time() - begun)
        assert sum(len(chunk.text) for chunk in chunks if isinstance(chunk, TextDelta)) == deltas * size
    short, long = took
    assert long < 4 * short, f"{long:.1f} s for ten megabytes, {short:.1f} s for next to nothing"


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
