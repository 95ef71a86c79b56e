"""What every language model keeps: the demo, and the providers over real HTTP."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import pytest

from application.errors import ModelUnavailableError
from application.language_model import (
    Finished,
    LanguageModel,
    ModelChunk,
    ModelRequest,
    Said,
    TextDelta,
    ToolCall,
)
from infrastructure.agents_file import load_agents
from infrastructure.models.demo import DemoModel
from infrastructure.models.providers import ProviderModels
from infrastructure.models.router import ModelRouter
from tests.openai_pieces import Cut, Pause, Piece, Text, call
from tests.openai_server import ChatRequest, OpenAIServer

TOOLS = load_agents().tools_for("coder")


@dataclass
class Subject:
    """A model under the suite, and the name to ask it by."""

    model: LanguageModel
    name: str

    def answer(self, said: str) -> AsyncGenerator[ModelChunk, None]:
        request = ModelRequest(self.name, "coder", "Be brief.", [Said("user", said)], TOOLS)
        return cast("AsyncGenerator[ModelChunk, None]", self.model.answer(request))

    async def chunks(self, said: str) -> list[ModelChunk]:
        return [chunk async for chunk in self.answer(said)]


def _script(request: ChatRequest) -> list[Piece]:
    """Say over HTTP what the demo says to the same words."""
    write = '{"path": "a.txt", "content": "x"}'
    answers: dict[str, list[Piece]] = {
        "long 50": [Text(f"word{number} ") for number in range(50)],
        "both": [Text("Two."), *call(0, "1", "write_file", write, 5), *call(1, "2", "write_file", write)],
        "fail": [Text("I begin"), Cut()],
        "slow 1000": [piece for _ in range(1000) for piece in (Text("tick "), Pause(0.05))],
    }
    return answers[request.messages[-1]["content"]]


@pytest.fixture(params=["demo", "providers", "router"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    demo = DemoModel(0, 0.05)
    if request.param == "demo":
        yield Subject(demo, "demo")
        return
    async with OpenAIServer(_script) as server:
        providers = ProviderModels(base_url=server.base_url, api_key="key", timeout_s=5)
        router = ModelRouter("openai:any", demo, providers)
        yield Subject(providers, "openai:any") if request.param == "providers" else Subject(router, "")
        await router.aclose()


async def test_deltas_come_before_exactly_one_end(subject: Subject) -> None:
    *deltas, end = await subject.chunks("long 50")

    assert isinstance(end, Finished)
    assert end.reason == "stop"
    assert min(end.input_tokens, end.output_tokens) > 0
    assert len(deltas) == 50
    assert all(isinstance(delta, TextDelta) and delta.text for delta in deltas)


async def test_several_calls_come_whole_and_in_order(subject: Subject) -> None:
    chunks = await subject.chunks("both")
    calls = [chunk for chunk in chunks if isinstance(chunk, ToolCall)]

    assert [chunk.tool for chunk in calls] == ["write_file", "write_file"]
    assert len({chunk.model_call_id for chunk in calls}) == 2
    assert isinstance(chunks[-1], Finished)
    assert chunks[-1].reason == "tool_calls"
    assert sum(isinstance(chunk, Finished) for chunk in chunks) == 1


async def test_an_answer_that_breaks_off_is_an_error_and_has_no_end(subject: Subject) -> None:
    chunks: list[ModelChunk] = []
    with pytest.raises(ModelUnavailableError):
        await _collect(subject.answer("fail"), chunks)

    assert chunks
    assert all(isinstance(chunk, TextDelta) for chunk in chunks)


async def _collect(answer: AsyncGenerator[ModelChunk, None], chunks: list[ModelChunk]) -> None:
    async for chunk in answer:
        chunks.append(chunk)  # noqa: PERF401  # one by one: what came before the error counts


async def test_closing_stops_the_answer(subject: Subject) -> None:
    started = time.monotonic()
    async with aclosing(subject.answer("slow 1000")) as chunks:
        assert isinstance(await anext(chunks), TextDelta)

    assert time.monotonic() - started < 1
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_cancelling_stops_the_answer(subject: Subject) -> None:
    task = asyncio.create_task(subject.chunks("slow 1000"))
    await asyncio.sleep(0.2)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert time.monotonic() - started < 1


async def test_answers_do_not_disturb_each_other(subject: Subject) -> None:
    answers = await asyncio.gather(*(subject.chunks(said) for said in ["long 50", "both"] * 5))

    assert all(answer == answers[index % 2] for index, answer in enumerate(answers))
