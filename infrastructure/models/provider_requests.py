"""What goes out to a provider: a request in the terms of pydantic-ai."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

from pydantic_ai import messages
from pydantic_ai.direct import model_request_stream
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from application.language_model import CallMade, ModelMessage, ModelRequest, ResultGiven, Said
from infrastructure.models.openai_chat import ChatModel

_ONE_ATTEMPT = ModelSettings(max_retries=0)


def open_answer(model: Model[Any], request: ModelRequest) -> Any:
    """Return the stream of a model's answer, to be entered."""
    parameters = ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool.name,
                description=tool.description,
                parameters_json_schema=dict(tool.parameters),
                strict=False,  # the schema is the operator's and stays as written
            )
            for tool in request.tools
        ],
        instruction_parts=[messages.InstructionPart(content=request.instructions)]
        if request.instructions
        else [],
    )
    return model_request_stream(
        model,
        list(_history(_for_provider(model, request.messages))),
        model_settings=None if isinstance(model, ChatModel) else _ONE_ATTEMPT,
        model_request_parameters=parameters,
        instrument=False,
    )


def _history(history: Sequence[ModelMessage]) -> Iterator[messages.ModelMessage]:
    """Group what was said: an answer is a text and the calls after it, then what came of them together."""
    answer = 0
    numbered: list[tuple[int, ModelMessage]] = []
    for message in history:
        answer += isinstance(message, Said) and message.role == "assistant"
        numbered.append((answer, message))
    for _, group in groupby(numbered, lambda item: (_is_answer(item[1]), item[0])):
        parts = [_part(message) for _, message in group]
        if isinstance(parts[0], messages.TextPart | messages.ToolCallPart):
            yield messages.ModelResponse(parts=cast("list[messages.ModelResponsePart]", parts))
        else:
            yield messages.ModelRequest(parts=cast("list[messages.ModelRequestPart]", parts))


def _for_provider(model: Model[Any], history: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Tell ids apart that a model used again: OpenAI's do, and other providers refuse that."""
    if isinstance(model, OpenAIChatModel):
        return history
    uses: Counter[str] = Counter()
    told: list[ModelMessage] = []
    for message in history:
        if isinstance(message, Said):
            told.append(message)
            continue
        uses[message.model_call_id] += isinstance(message, CallMade)
        use = uses[message.model_call_id]
        told.append(replace(message, model_call_id=f"{message.model_call_id}_{use}") if use > 1 else message)
    return told


def _is_answer(message: ModelMessage) -> bool:
    return isinstance(message, CallMade) or (isinstance(message, Said) and message.role == "assistant")


def _part(message: ModelMessage) -> messages.ModelResponsePart | messages.ModelRequestPart:
    match message:
        case Said("user", content):
            return messages.UserPromptPart(content)
        case Said(_, content):
            return messages.TextPart(content)
        case CallMade(call_id, tool, arguments):
            return messages.ToolCallPart(tool, arguments, call_id)
        case ResultGiven(call_id, tool, content):
            return messages.ToolReturnPart(tool, content, call_id)
