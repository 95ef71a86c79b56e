"""Which model answers: the demo or a provider's, by the name in the request."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from application.errors import ModelRefusedError
from application.language_model import LanguageModel, ModelChunk, ModelRequest

DEMO = "demo"


class ModelSettingError(ValueError):
    """A model cannot be used as the settings name it; the message is one sentence for the operator."""


class ModelNotFoundError(ModelSettingError):
    """No provider has a model of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no model called {name!r}: a model is {DEMO} or a provider and its model, "
            "as openai:gpt-4o or anthropic:claude-sonnet-4-5."
        )


class Providers(Protocol):
    """The models of the providers, which need checking before and closing after."""

    def check(self, name: str) -> None:
        """Raise `ModelSettingError` where the model cannot be used as named."""

    def answer(self, request: ModelRequest) -> AsyncIterator[ModelChunk]:
        """Stream the model's answer."""

    async def aclose(self) -> None:
        """Close what is open to the providers."""


class ModelRouter:
    """A language model that picks, for each request, the one that it names, or the default."""

    def __init__(self, default: str, demo: LanguageModel, providers: Providers | None = None) -> None:
        self.default = default
        self._demo = demo
        self._providers = providers

    def answer(self, request: ModelRequest) -> AsyncIterator[ModelChunk]:
        """Stream the answer of the model that the request names; raises as that model does."""
        request = replace(request, model=self.name(request.model))
        if request.model == DEMO:
            return self._demo.answer(request)
        return self._providers.answer(request) if self._providers else _nobody()

    def name(self, model: str | None) -> str:
        """Return the name of the model that answers a request for this one."""
        return model or self.default

    async def aclose(self) -> None:
        """Close what is open to the providers."""
        if self._providers:
            await self._providers.aclose()


async def _nobody() -> AsyncIterator[ModelChunk]:
    """Refuse: the server was started without any provider."""
    await asyncio.sleep(0)
    raise ModelRefusedError
    yield  # type: ignore[unreachable]  # what makes this an iterator
