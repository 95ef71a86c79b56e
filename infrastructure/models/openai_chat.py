"""The chat completions format, without a second copy of what was said."""

from collections.abc import Iterable

from openai.types.chat.chat_completion_chunk import Choice
from pydantic_ai.messages import ModelResponseStreamEvent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse


class ChatStream(OpenAIStreamedResponse):
    """A streamed answer that costs a delta the same, however long it has become.

    The library keeps the text once more to place citations in it, and copies all of it at each delta: ten
    megabytes in ten thousand deltas took half a minute of the processor. We use no citations.
    """

    def _map_text_delta(self, choice: Choice) -> Iterable[ModelResponseStreamEvent]:
        self._raw_text_content = ""
        return super()._map_text_delta(choice)


class ChatModel(OpenAIChatModel):
    """A model of any server that speaks chat completions."""

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return ChatStream
