"""What a scripted OpenAI server can say: the pieces of an answer, good and bad."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class CallPiece:
    """A piece of a tool call: the first one of an index has the id and the name."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Pause:
    """Silence for so many seconds; ends early when the client goes away."""

    seconds: float


@dataclass(frozen=True)
class Status:
    """Answer with an HTTP error instead; only as the first piece."""

    code: int
    message: str = "No."


@dataclass(frozen=True)
class Refusal:
    """A piece of a refusal by the model."""

    text: str


@dataclass(frozen=True)
class StreamError:
    """An error object inside the stream, after the status 200."""

    message: str = "The server had an error."


@dataclass(frozen=True)
class Usage:
    """The tokens to report at the end; None for a server that reports none."""

    tokens: tuple[int, int] | None


@dataclass(frozen=True)
class Finish:
    """Another finish reason than the one that goes with the pieces; None for a server that gives none."""

    reason: str | None


@dataclass(frozen=True)
class Cut:
    """Close the connection at once, in the middle of the response."""


@dataclass(frozen=True)
class EndEarly:
    """End the response cleanly, but without finish reason and `[DONE]`."""


Piece = Text | CallPiece | Pause | Status | Refusal | StreamError | Usage | Finish | Cut | EndEarly


def call(index: int, call_id: str, name: str, arguments: str, size: int = 0) -> list[CallPiece]:
    """Return a tool call in pieces of `size` characters of its arguments; 0: in one piece."""
    if not size:
        return [CallPiece(index, arguments, call_id, name)]
    pieces = [arguments[start : start + size] for start in range(0, len(arguments), size)]
    return [CallPiece(index, "", call_id, name), *(CallPiece(index, piece) for piece in pieces)]


def recorded(message: Mapping[str, Any], size: int = 16) -> list[Piece]:
    """Return a recorded assistant message (`content`, `tool_calls`) as the pieces that say the same."""
    content = message.get("content") or ""
    pieces: list[Piece] = [Text(content[start : start + size]) for start in range(0, len(content), size)]
    for index, made in enumerate(message.get("tool_calls") or ()):
        pieces += call(index, made["id"], made["name"], made["arguments"], size)
    return pieces
