"""What comes back from a provider: the pieces of an answer, and its end."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic_ai import messages
from pydantic_ai.models import Model, StreamedResponse
from pydantic_ai.models.openai import OpenAIChatModel

from application import errors
from application.language_model import Finished, ModelChunk, ToolCall

_FINISH_REASONS = {"tool_call": "tool_calls"}


def text_of(event: object) -> str:
    """Return what an event adds to the text of an answer."""
    match event:
        case messages.PartStartEvent(part=messages.TextPart(content=text)):
            return text
        case messages.PartDeltaEvent(delta=messages.TextPartDelta(content_delta=text)):
            return text
    return ""


def unsaid_bytes(event: object) -> int:
    """Return how much an event adds to what is kept of an answer until its end: calls, thoughts."""
    match event:
        case (
            messages.PartStartEvent(part=messages.ToolCallPart(args=str(text)))
            | messages.PartStartEvent(part=messages.ThinkingPart(content=text))
            | messages.PartDeltaEvent(delta=messages.ToolCallPartDelta(args_delta=str(text)))
            | messages.PartDeltaEvent(delta=messages.ThinkingPartDelta(content_delta=str(text)))
        ):
            return len(text.encode())
    return 0


def end_of(model: Model[Any], stream: StreamedResponse) -> Iterator[ModelChunk]:
    """Give the whole calls and the end of an answer; one that broke off has no reason to have ended."""
    response = stream.get()
    if response.finish_reason == "content_filter":
        raise errors.ModelRefusedError
    if response.finish_reason in {None, "error"} or not _said_why(model, response):
        raise errors.ModelUnavailableError
    for part in response.parts:
        if isinstance(part, messages.ToolCallPart):
            yield ToolCall(part.tool_call_id, part.tool_name, _arguments(part.args))
    reason = str(response.finish_reason)
    usage = response.usage
    yield Finished(_FINISH_REASONS.get(reason, reason), usage.input_tokens, usage.output_tokens)


def _said_why(model: Model[Any], response: messages.ModelResponse) -> bool:
    """Tell a real end from an assumed one: in chat completions the library takes none for `stop`."""
    return not isinstance(model, OpenAIChatModel) or bool(
        (response.provider_details or {}).get("finish_reason")
    )


def _arguments(arguments: object) -> str:
    if isinstance(arguments, str) and arguments:
        return arguments
    return json.dumps(arguments or {}, ensure_ascii=False)
