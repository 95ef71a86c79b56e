"""The models of every provider that pydantic-ai knows, streamed through its direct requests.

Nothing is tried twice here: a second attempt would double the tokens unseen, and a turn can be retried.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers.openai import OpenAIProvider

from application import errors
from application.language_model import ModelChunk, ModelRequest, TextDelta
from infrastructure.models.openai_chat import ChatModel
from infrastructure.models.provider_answers import end_of, text_of, unsaid_bytes
from infrastructure.models.provider_errors import failure_of, setting_error
from infrastructure.models.provider_requests import open_answer
from infrastructure.models.router import ModelNotFoundError, ModelSettingError


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
            raise setting_error(name, error) from None

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Stream the model's answer; raises `ModelError` subclasses and nothing else."""
        try:
            async with aclosing(self._chunks(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:  # noqa: BLE001  # whatever a library raises becomes a code
            failure = failure_of(error)
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
            return ChatModel(model, provider=OpenAIProvider(base_url=self._base_url, api_key=self._api_key))
        return infer_model(name)

    async def _chunks(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        # Built beside the loop where nobody checked it before: importing a provider's library takes a second.
        built = self._models.get(request.model)
        model = built if built is not None else await asyncio.to_thread(self._model, request.model)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._timeout_s):
                stream = await stack.enter_async_context(open_answer(model, request))
            events = aiter(stream)
            room = self._answer_bytes
            while event := await self._next(events):
                if text := text_of(event):
                    yield TextDelta(text)
                elif (room := room - unsaid_bytes(event)) < 0:
                    raise errors.AnswerLimitReachedError(limit=f"{self._answer_bytes} bytes")
            for chunk in end_of(model, stream):
                yield chunk

    async def _next(self, events: AsyncIterator[Any]) -> Any:
        """Wait for the next event; the time that we take between two of them does not count."""
        async with asyncio.timeout(self._timeout_s):
            return await anext(events, None)
