"""Rows of the log, and the events in them as the world is shown them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from eventsourcing.utils import TopicError

from application.ports import LoggedEvent
from infrastructure.vault import StoredDataError

UNREADABLE: Final[dict[str, Any]] = {"unreadable": True}
# What was changed since it was sealed, has lost its key, is newer than this version knows, or belongs to
# another application that keeps its events in the same log.
CANNOT_BE_READ: Final = (StoredDataError, TopicError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(slots=True)  # not frozen: to make one took twice as long, and every turn reads dozens
class Row:
    """One event as it is stored, byte for byte. Nobody changes one."""

    position: int
    stream: str
    version: int
    type: str
    conversation: str
    turn: str
    actor: str
    recorded_at: datetime
    data: bytes


class Opening(Protocol):
    """What opens sealed rows."""

    async def opened(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows with their data as it was before it was sealed."""


Decode = Callable[[Row], LoggedEvent]


async def shown(rows: Sequence[Row], decode: Decode, keys: Opening | None) -> list[LoggedEvent]:
    """Return the events of these rows; one that cannot be read says so, and keeps nobody from the others.

    Raises `StoreUnavailableError`.
    """
    try:
        return [decode(row) for row in (await keys.opened(rows) if keys else rows)]
    except CANNOT_BE_READ:
        if len(rows) == 1:
            return [_unreadable(rows[0])]
        middle = len(rows) // 2
        return [*await shown(rows[:middle], decode, keys), *await shown(rows[middle:], decode, keys)]


def _unreadable(row: Row) -> LoggedEvent:
    place = (row.position, row.stream, row.version, row.type, row.conversation, row.turn, row.actor)
    return LoggedEvent(*place, row.recorded_at, UNREADABLE)
