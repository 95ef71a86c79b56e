"""Exports of the log: what is asked for, what a finished one says about itself, and what can be wrong."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from application.protocol import is_id
from domain.errors import MinutebookError

Format = Literal["ndjson", "csv", "parquet"]
FORMATS: Final[Sequence[Format]] = ("ndjson", "csv", "parquet")
MEDIA_TYPES: Final = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
PRODUCT: Final = "minutebook 0.1.0"
MANIFEST: Final = "minutebook-export"
MANIFEST_VERSION: Final = 1


class ExportError(MinutebookError):
    """The export cannot go on: {reason}."""

    code = "invalid_message"


class RestoreError(MinutebookError):
    """The export was not taken in, and nothing has changed: {reason}."""

    code = "invalid_message"


@dataclass(frozen=True)
class Selection:
    """Which events: positions from `first` to `last`, both included; the rest narrows them down.

    `types` are names of events in which `*` stands for anything and `?` for one character. `since` is the
    first moment, `before` the first one that is too late. Without `last` it is the newest event.
    """

    first: int = 1
    last: int | None = None
    conversation: str | None = None
    types: tuple[str, ...] = ()
    since: datetime | None = None
    before: datetime | None = None

    @property
    def is_whole(self) -> bool:
        """Whether no event between the two positions is left out."""
        return self.conversation is None and not self.types


@dataclass(frozen=True)
class Chunk:
    """A part of an export: the events above the last chunk's, up to position `last`.

    Its bytes end before the offset `end`, and `sha256` is theirs. One without events holds what a format
    needs around them.
    """

    first: int
    last: int
    count: int
    end: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished export says about itself; `sha256` is that of the whole file."""

    format: Format
    file: str
    bytes: int
    sha256: str
    count: int
    first: int
    last: int
    conversation: str | None
    types: Sequence[str]
    created_at: str
    product: str
    chunks: Sequence[Chunk]

    def as_json(self) -> dict[str, Any]:
        """Return it as it is written."""
        return {"manifest": MANIFEST, "manifest_version": MANIFEST_VERSION, **asdict(self)}


@dataclass(frozen=True)
class ExportStep:
    """How far it has come: the position reached of `target`, and what is being done."""

    phase: str
    position: int
    target: int
    started_at: int = 0


@dataclass(frozen=True)
class Checked:
    """What a check of an export found; `reason` is None where all is as the manifest says.

    `chunk` is the first that does not fit, counted from 1, and `first` and `last` are its positions.
    """

    manifest: str
    count: int
    first: int
    last: int
    bytes: int
    reason: str | None = None
    chunk: int | None = None


class ExportStreams(Protocol):
    """Exports for whoever reads them over a network."""

    async def settled(self, selection: Selection) -> Selection:
        """Return the selection with its range fixed. Raises `ExportError` and `StoreUnavailableError`."""

    def stream(self, selection: Selection, form: Format) -> AsyncIterator[bytes]:
        """Yield the file piece by piece. Raises `StoreUnavailableError`, at any piece."""


def place_of(name: str, given: str) -> int | datetime:
    """Return a position (a whole number from 1 on), or a time, in UTC where it names no zone.

    Raises `ExportError`.
    """
    if re.fullmatch(r"[0-9]{1,18}", given):
        return int(given)
    try:
        time = datetime.fromisoformat(given)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        reason = f"`{name}` is a position as 1200, or a time as 2026-03-01T09:00 or 2026-03-01T09:00:00+01:00"
        raise ExportError(reason=reason) from None


def selected(
    from_place: str | None, until_place: str | None, conversation: str | None, types: Sequence[str]
) -> Selection:
    """Return the selection that these words ask for. Raises `ExportError`."""
    first = place_of("from", from_place) if from_place is not None else 1
    last = place_of("until", until_place) if until_place is not None else None
    if conversation is not None and not is_id(conversation):
        raise ExportError(reason=f"no conversation has the id {conversation[:80]!r}")
    if any(not re.fullmatch(r"[a-z_.*?]{1,100}", one) for one in types):
        raise ExportError(reason="a type reads as agent.model_called, or with * as conversation.tool_call_*")
    return Selection(
        first=first if isinstance(first, int) else 1,
        last=None if isinstance(last, datetime) else last,
        conversation=conversation,
        types=tuple(types),
        since=first if isinstance(first, datetime) else None,
        before=last if isinstance(last, datetime) else None,
    )


OnStep = Callable[[ExportStep], None]
IsCancelled = Callable[[], bool]
