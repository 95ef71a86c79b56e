"""What a server says: frames, refusals, and the parser of its streams."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

FINAL: Final = ("turn.committed", "turn.failed")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a stream. `id` is where to go on from; a provisional frame of a feed has none."""

    id: str | None
    type: str
    data: Mapping[str, Any]

    @property
    def conversation_id(self) -> str:
        """The conversation it belongs to."""
        return str(self.data["conversation_id"])

    @property
    def turn_id(self) -> str:
        """The turn it belongs to."""
        return str(self.data["turn_id"])

    @property
    def position(self) -> int | None:
        """The event's place in the log; None means it is not stored, and may vanish."""
        return self.data.get("position")

    @property
    def text(self) -> str:
        """The words of a `turn.delta`, else nothing."""
        return str(self.data["text"]) if self.type == "turn.delta" else ""

    @property
    def is_final(self) -> bool:
        """Whether it is the last one of its turn."""
        return self.type in FINAL


class ClientError(Exception):
    """Something that the client cannot mend by itself."""


class RefusedError(ClientError):
    """The server refused what was asked; `code` says why and stays the same for ever."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.problem = problem
        super().__init__(f"{status} {self.code}: {problem.get('detail') or problem.get('title', '')}")


class UnreachableError(ClientError):
    """The server did not answer for as long as the client was told to be patient."""


async def parsed(pieces: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Parse a stream of events; what is cut off in the middle of a frame is left out."""
    fields: dict[str, str] = {}
    async for line in _lines(pieces):
        name, _, value = line.partition(":")
        if name:  # a comment has none
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "data" in fields:
                yield Frame(fields.get("id"), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
        for line in lines:
            yield line.decode()
