"""What an auditor can ask of the log: which events, and what a page of them says."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from application.audit_filter import EventFilter
from application.ports import LoggedEvent, TurnRow
from application.queries import Answer

__all__ = ["AuditLog", "EventFilter", "EventPage", "event_said", "every_page"]


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events in the order asked for. `next` is the position to go on from, None at the end.

    A page may end before it is full: it does a bounded amount of work, and `next` then says how far
    it has looked.
    """

    events: Sequence[LoggedEvent]
    next: int | None = None


class AuditLog(Protocol):
    """The log, searched by an auditor. Every method raises `StoreUnavailableError` without a database."""

    async def page(self, wanted: EventFilter, limit: int) -> Answer[EventPage]:
        """Return at most `limit` events; the answer's position is how far the log was known.

        Raises `TurnNotFoundError` for a filter by a turn that nobody knows.
        """

    async def head(self) -> int:
        """Return the position of the newest event, 0 for an empty log."""

    async def events(self, positions: Sequence[int]) -> Mapping[int, LoggedEvent]:
        """Return those of the events at these positions that there are."""

    async def turn(self, turn_id: str) -> TurnRow | None:
        """Return a turn, whosever it is, or None."""

    async def before(self, at: datetime) -> int:
        """Return the position of the newest event recorded at or before this time, 0 for none."""


async def every_page(
    log: AuditLog, wanted: EventFilter, most: int | None = None, size: int = 200
) -> AsyncIterator[Answer[EventPage]]:
    """Yield page after page of what is wanted, up to the head of the log as it is at the beginning.

    `most` is how many events at most, None all.
    """
    left = size if most is None else most
    while left > 0:
        answer = await log.page(wanted, min(size, left))
        yield answer
        if answer.value.next is None:
            return
        left -= 0 if most is None else len(answer.value.events)
        wanted = following(wanted, answer)


def following(wanted: EventFilter, answer: Answer[EventPage]) -> EventFilter:
    """Return the filter of the page behind this one; what is new since then is left out."""
    if wanted.newest_first:
        return replace(wanted, before=answer.value.next)
    end = answer.position + 1
    return replace(wanted, after=answer.value.next, before=min(wanted.before or end, end))


def event_said(event: LoggedEvent) -> Mapping[str, Any]:
    """Return an event as the audit shows it: every column by its name, and what the event itself says."""
    return {
        "position": event.position,
        "recorded_at": event.recorded_at.isoformat(),
        "type": event.type,
        "actor": event.actor,
        "conversation_id": event.conversation_id,
        "turn_id": event.turn_id,
        "stream": event.stream,
        "version": event.version,
        "data": event.data,
    }
