"""The models of every provider that pydantic-ai knows, streamed through its direct requests.

Nothing is tried twice here: a second attempt would double the tokens unseen, and a turn can be retried. What
a provider says about an error stays here, too: it may quote the request, and with it secrets.
"""

import asyncio
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

from pydantic_ai import exceptions, messages
from pydantic_ai.direct import model_request_stream
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, infer_model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

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
    ToolCall,
)
from infrastructure.models.router import ModelNotFoundError, ModelSettingError

_log = logging.getLogger(__name__)

_ONE_ATTEMPT = ModelSettings(max_retries=0)
_FINISH_REASONS = {"tool_call": "tool_calls"}


class ProviderModels:
    """A language model for every `provider:model` name.

    `openai:` speaks the chat completions format, to `base_url` where one is given: any server that speaks the
    same will do. A provider that is silent for `timeout_s` seconds has not answered in time. Beside its text,
    which whoever listens measures, an answer may hold `answer_bytes` of calls and thoughts.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        answer_bytes: int = 2**24,
    ) -> None:
        self._answer_bytes = answer_bytes
        self._base_url = base_url
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._models: dict[str, Model[Any]] = {}
        self._building = threading.Lock()

    def check(self, name: str) -> None:
        """Raise `ModelSettingError` where there is no such model, or its key or package is missing."""
        try:
            self._model(name)
        except ImportError as error:
            raise ModelSettingError(
                f"The model {name} needs a package that is not installed: {error.name}."
            ) from None
        except (exceptions.UserError, ValueError) as error:
            raise _setting_error(name, error) from None

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Stream the model's answer; raises `ModelError` subclasses and nothing else."""
        try:
            async with aclosing(self._chunks(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:  # noqa: BLE001  # whatever a library raises becomes a code
            failure = _failure(error)
        else:
            return
        # Raised out here, so that it does not carry the provider's own words along.
        raise failure

    async def aclose(self) -> None:
        """Close the connections to all providers."""
        models, self._models = self._models, {}
        for model in models.values():
            async with model:
                pass  # leaving a model closes its HTTP client

    def _model(self, name: str) -> Model[Any]:
        # Each model is built once, whoever comes first: a second one's connections would never be closed.
        with self._building:
            if name not in self._models:
                self._models[name] = self._build(name)
            return self._models[name]

    def _build(self, name: str) -> Model[Any]:
        provider, _, model = name.partition(":")
        if not provider or not model:
            raise ModelNotFoundError(name)
        if provider == "openai":
            return OpenAIChatModel(
                model, provider=OpenAIProvider(base_url=self._base_url, api_key=self._api_key)
            )
        return infer_model(name)

    async def _chunks(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        # Built beside the loop where nobody checked it before: importing a provider's library takes a second.
        built = self._models.get(request.model)
        model = built if built is not None else await asyncio.to_thread(self._model, request.model)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._timeout_s):
                stream = await stack.enter_async_context(_open(model, request))
            events = aiter(stream)
            room = self._answer_bytes
            while event := await self._next(events):
                if text := _text(event):
                    yield TextDelta(text)
                elif (room := room - _unsaid_bytes(event)) < 0:
                    raise errors.AnswerLimitReachedError(limit=self._answer_bytes)
            for chunk in _end(model, stream):
                yield chunk

    async def _next(self, events: AsyncIterator[Any]) -> Any:
        """Wait for the next event; the time that we take between two of them does not count."""
        async with asyncio.timeout(self._timeout_s):
            return await anext(events, None)


# --- what goes out -------------------------------------------------------------------------------


def _open(model: Model[Any], request: ModelRequest) -> Any:
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
        model_settings=_ONE_ATTEMPT,
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


# --- what comes back -----------------------------------------------------------------------------


def _text(event: object) -> str:
    match event:
        case messages.PartStartEvent(part=messages.TextPart(content=text)):
            return text
        case messages.PartDeltaEvent(delta=messages.TextPartDelta(content_delta=text)):
            return text
    return ""


def _unsaid_bytes(event: object) -> int:
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


def _end(model: Model[Any], stream: StreamedResponse) -> Iterator[ModelChunk]:
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


# --- errors --------------------------------------------------------------------------------------

_BY_KIND: tuple[tuple[type[Exception], type[errors.ModelError]], ...] = (
    (TimeoutError, errors.ModelTimeoutError),
    (exceptions.ModelTimeoutError, errors.ModelTimeoutError),
    (exceptions.ModelRequestTimeout, errors.ModelTimeoutError),
    (exceptions.ModelRateLimitError, errors.ModelRateLimitedError),
    (exceptions.ModelQuotaExceededError, errors.ModelRateLimitedError),
    (exceptions.ModelAuthenticationError, errors.ModelAuthError),
    (exceptions.ModelRequestRejectedError, errors.ModelRefusedError),
    (exceptions.ContentFilterError, errors.ModelRefusedError),
    (ModelNotFoundError, errors.ModelRefusedError),
    (exceptions.UserError, errors.ModelAuthError),
)


def _failure(error: Exception) -> errors.ModelError:
    if isinstance(error, errors.ModelError):
        return error
    status = getattr(error, "status_code", None)
    _log.warning("A model call failed: %s, status %s", type(error).__name__, status)
    by_status = _by_status(status) if isinstance(status, int) else None
    by_kind = (failure for kind, failure in _BY_KIND if isinstance(error, kind))
    return (by_status or next(by_kind, errors.ModelUnavailableError))()


def _by_status(status: int) -> type[errors.ModelError] | None:
    known = {401: errors.ModelAuthError, 403: errors.ModelAuthError, 408: errors.ModelTimeoutError}
    known |= {429: errors.ModelRateLimitedError}
    if status in known:
        return known[status]
    if 400 <= status < 500:
        return errors.ModelRefusedError
    return errors.ModelUnavailableError if status >= 500 else None


def _setting_error(name: str, error: Exception) -> ModelSettingError:
    """Say what the operator has to do, in our words."""
    if isinstance(error, ModelSettingError):
        return error
    key = re.search(r"`([A-Z][A-Z0-9_]+)`", str(error))
    if key and "Unknown model" not in str(error):
        return ModelSettingError(f"The model {name} needs the environment variable {key[1]}.")
    return ModelNotFoundError(name)
