"""A language model as a turn asks it: what it is told, and the pieces of its answer."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Said:
    """Something said by the person (`user`) or by the agent (`assistant`)."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class CallMade:
    """A tool call the agent made, under the model's own id. `arguments` is JSON text."""

    model_call_id: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ResultGiven:
    """What came of a call; exactly one follows each `CallMade` before anything is said again."""

    model_call_id: str
    tool: str
    content: str


ModelMessage = Said | CallMade | ResultGiven


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the model sees it; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of a model: everything it may know and use."""

    model: str
    agent: str
    instructions: str
    messages: Sequence[ModelMessage]
    tools: Sequence[Tool] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call of the answer; `arguments` is the text the model sent, JSON or not."""

    model_call_id: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer. Tokens are counts as the provider gave them, 0 where it gave none."""

    reason: str
    input_tokens: int = 0
    output_tokens: int = 0


ModelChunk = TextDelta | ToolCall | Finished


class LanguageModel(Protocol):
    """A model that answers in pieces: any number of deltas and calls, then exactly one `Finished`.

    Raises `ModelError` subclasses (application/errors.py) and nothing else; closing the iterator
    stops the request.
    """

    def answer(self, request: ModelRequest) -> AsyncIterator[ModelChunk]:
        """Stream the model's answer."""
