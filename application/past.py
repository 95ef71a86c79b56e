"""A conversation as it was: its state and transcript at any position of the log, and what changed since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from application.audit import AuditLog
from application.errors import InvalidFilterError
from application.frames import IDLE, outcome_of
from application.queries import Entry
from domain.agent import Agent
from domain.aggregate import plain
from domain.conversation import Conversation
from domain.errors import ConversationNotFoundError


@dataclass(frozen=True, slots=True)
class Past:
    """A conversation as of a position: what its aggregates said then, and its transcript.

    `waiting_for` is that of a terminal frame, `plan` the open plan with its progress, `entries` are
    those of the transcript with what had become of them by then.
    """

    conversation_id: str
    position: int
    state: str
    waiting_for: Mapping[str, Any]
    agent: str | None
    title: str | None
    plan: Mapping[str, Any] | None
    events: int
    entries: Sequence[Entry]


class Pasts(Protocol):
    """Conversations, replayed. Raises `StoreUnavailableError` without a database."""

    async def as_of(self, conversation_id: str, position: int) -> Past | None:
        """Return the conversation as of this position, None where it had not begun by then."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed in a conversation between two positions.

    `fields` has the value before and after of whatever differs; `added` are entries that are new,
    `changed` those of which more has become, before and after.
    """

    first: int
    last: int
    events: int
    fields: Mapping[str, Sequence[Any]]
    added: Sequence[Entry]
    changed: Sequence[tuple[Entry, Entry]]


def past_of(
    position: int, conversation: Conversation, agent: Agent | None, events: int, entries: Sequence[Entry]
) -> Past:
    """Return what the aggregates say now, together with the transcript that goes with it."""
    outcome = outcome_of(conversation) or IDLE
    return Past(
        conversation_id=conversation.id.partition("-")[2],
        position=position,
        state=outcome["state"],
        waiting_for=outcome["waiting_for"],
        agent=agent.name if agent else None,
        title=conversation.title,
        plan=plain(conversation.plan),
        events=events,
        entries=entries,
    )


async def position_at(log: AuditLog, place: int | datetime) -> int:
    """Return a position for a place: of a time, that of the newest event recorded until then."""
    return place if isinstance(place, int) else await log.before(place)


async def as_of(log: AuditLog, pasts: Pasts, conversation_id: str, place: int | datetime) -> Past:
    """Return the conversation as of a position or a time. Raises `ConversationNotFoundError`."""
    past = await pasts.as_of(conversation_id, await position_at(log, place))
    if past is None:
        raise ConversationNotFoundError
    return past


async def changes(
    log: AuditLog, pasts: Pasts, conversation_id: str, first: int | datetime, last: int | datetime
) -> Changes:
    """Return what changed after `first` and up to `last`.

    Raises `InvalidFilterError` where `last` is the earlier one, and `ConversationNotFoundError`.
    """
    start, end = await position_at(log, first), await position_at(log, last)
    if start > end:
        raise InvalidFilterError(name="to", reason="it has to be later than from")
    after = await as_of(log, pasts, conversation_id, end)
    before = await pasts.as_of(conversation_id, start)
    return difference(before, after)


def difference(before: Past | None, after: Past) -> Changes:
    """Return what has changed; `before` is None where the conversation had not begun."""
    known = {entry.position: entry for entry in before.entries} if before else {}
    names = ("state", "waiting_for", "agent", "title", "plan")
    fields = {name: [getattr(before, name, None), getattr(after, name)] for name in names}
    return Changes(
        first=before.position if before else 0,
        last=after.position,
        events=after.events - (before.events if before else 0),
        fields={name: both for name, both in fields.items() if both[0] != both[1]},
        added=[entry for entry in after.entries if entry.position not in known],
        changed=[
            (known[entry.position], entry)
            for entry in after.entries
            if entry.position in known and known[entry.position] != entry
        ],
    )
