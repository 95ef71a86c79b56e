"""What goes out to a provider, and what stops the start where one cannot be used."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from application import errors
from application.language_model import (
    CallMade,
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
from tests.openai_pieces import Piece, Text, recorded
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


async def sent(*messages: ModelMessage, tools: tuple[Tool, ...] = ()) -> ChatRequest:
    async with served(says(Text("ok"))) as (models, server):
        [_ async for _ in models.answer(request(*messages, tools=tools))]
        return server.requests[0]


async def answer(script: Script, *messages: ModelMessage, timeout_s: float = 5.0) -> list[ModelChunk]:
    async with served(script, timeout_s) as (models, _):
        return [chunk async for chunk in models.answer(request(*messages))]


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
