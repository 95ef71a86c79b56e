"""Exports of the log: what is asked for, what a finished one says about itself, and what can be wrong."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from application.audit_filter import event_filter, place_of
from application.errors import InvalidFilterError
from domain.errors import MinutebookError

Format = Literal["ndjson", "csv", "parquet"]
FORMATS: Final[Sequence[Format]] = ("ndjson", "csv", "parquet")
MEDIA_TYPES: Final = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
MANIFEST: Final = "minutebook-export"
MANIFEST_VERSION: Final = 1


class ExportError(MinutebookError):
    """The export cannot go on: {reason}."""

    code = "invalid_message"


class UncheckableError(ExportError):
    """The export cannot be checked: {reason}."""


class RestoreError(MinutebookError):
    """The export was not taken in, and nothing has changed: {reason}."""

    code = "invalid_message"


@dataclass(frozen=True)
class Selection:
    """Which events: positions from `first` to `last`, both included; the rest narrows them down.

    `since` is the first moment, `before` the first one that is too late. Without `last` the end is the newest
    event.
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
    checkpoint: str | None = None  # the newest signed one when the export was finished

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
    checkpoints: Sequence[int] = ()  # the sizes of those that its events were compared with


class ExportStreams(Protocol):
    """Exports for whoever reads them over a network."""

    async def settled(self, selection: Selection) -> Selection:
        """Return the selection with its range fixed. Raises `ExportError` and `StoreUnavailableError`."""

    def stream(self, selection: Selection, form: Format) -> AsyncIterator[bytes]:
        """Yield the file piece by piece. Raises `StoreUnavailableError`, at any piece."""


def selected(
    from_place: str | None, until_place: str | None, conversation: str | None, types: Sequence[str]
) -> Selection:
    """Return the selection that these words ask for; a place is a position or a time.

    Raises `InvalidFilterError`.
    """
    wanted = event_filter(conversation=conversation, types=types)
    first = 1 if from_place is None else place_of("from", from_place)
    last = None if until_place is None else place_of("until", until_place)
    _refuse_nothing(first, last)
    return Selection(
        first=first if isinstance(first, int) else 1,
        last=None if isinstance(last, datetime) else last,
        conversation=wanted.conversation,
        types=wanted.types,
        since=first if isinstance(first, datetime) else None,
        before=last if isinstance(last, datetime) else None,
    )


def _refuse_nothing(first: int | datetime, last: int | datetime | None) -> None:
    are_positions = isinstance(first, int) and isinstance(last, int) and last < first
    are_times = isinstance(first, datetime) and isinstance(last, datetime) and last <= first
    if are_positions or are_times:
        raise InvalidFilterError(name="until", reason="it has to come after from")


OnStep = Callable[[ExportStep], None]
IsCancelled = Callable[[], bool]
