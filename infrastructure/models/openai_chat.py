"""The chat completions format, without a second copy of what was said, or a second look at it."""

from collections.abc import Iterable
from typing import Any

from openai.resources.chat import AsyncCompletions
from openai.types.chat.chat_completion_chunk import Choice
from pydantic_ai.messages import ModelResponseStreamEvent
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.providers.openai import OpenAIProvider


class ChatStream(OpenAIStreamedResponse):
    """A streamed answer that costs a delta the same, however long it has become.

    The library keeps the text once more to place citations in it, and copies all of it at each delta: ten
    megabytes in ten thousand deltas took half a minute of the processor. We use no citations.
    """

    def _map_text_delta(self, choice: Choice) -> Iterable[ModelResponseStreamEvent]:
        self._raw_text_content = ""
        return super()._map_text_delta(choice)


class Completions(AsyncCompletions):
    """Sends messages and tools as they are given.

    The library holds each of them against every form that it could have, to rename what is spelt differently
    in JSON, which nothing is: sixty messages took 14 ms, in which no other stream of the process went on.
    """

    async def create(self, **asked: Any) -> Any:
        """Ask for an answer."""
        as_given = {name: asked.pop(name) for name in ("messages", "tools") if asked.get(name)}
        body = {**(asked.pop("extra_body", None) or {}), **as_given}
        return await super().create(messages=[], extra_body=body, **asked)


class ChatModel(OpenAIChatModel):
    """A model of any server that speaks chat completions; what it does not answer is not asked again."""

    def __init__(self, name: str, provider: OpenAIProvider) -> None:
        super().__init__(name, provider=provider)
        self.client.max_retries = 0  # here, and not a request's setting: each of those copies the client
        self.client.chat.completions = Completions(self.client)  # type: ignore[misc]  # it is kept

    def customize_request_parameters(
        self, model_request_parameters: ModelRequestParameters
    ) -> ModelRequestParameters:
        """Leave the tools' schemas as the operator wrote them.

        The library would walk through each of them at each request, for forms that only its strict ones need.
        """
        return model_request_parameters

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return ChatStream
