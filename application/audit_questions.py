"""The auditor's questions: who approved what, what was tried again, which turns did not end well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from application.audit import AuditLog
from application.ports import LoggedEvent, TurnRow
from application.queries import Answer, Page

DECISIONS: Final = ("approve", "edit", "modify", "reject")


@dataclass(frozen=True, slots=True)
class Request:
    """A call or a version of a plan, by the positions where it was asked for, decided and ended."""

    conversation: str
    id: str
    kind: str
    tool: str | None
    agent: str
    requested: int
    decided: int | None
    decision: str | None
    ended: int | None
    outcome: str | None

    @property
    def positions(self) -> Sequence[int]:
        """Where the log tells of it."""
        return [one for one in (self.requested, self.decided, self.ended) if one is not None]


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which decisions; None is any. `after` is a position, left out; times are as in an `EventFilter`."""

    conversation: str | None = None
    tool: str | None = None
    decision: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int = 0


@dataclass(frozen=True, slots=True)
class Some:
    """Some of what was asked for, in order; `next` is the position to go on from, None at the end."""

    items: Sequence[Any]
    next: int | None = None


class Questions(Protocol):
    """The read model of requests and the turns, asked. Raises `StoreUnavailableError` without a database."""

    async def decided(self, wanted: RequestFilter, limit: int) -> Answer[Some]:
        """Return what was decided (`Request`), in the order of the decisions."""

    async def retried(self, wanted: RequestFilter, limit: int) -> Answer[Some]:
        """Return pairs: a rejected call, and the next call of the same tool in the same conversation."""

    async def ended_badly(self, state: str, before: datetime | None, limit: int) -> Page[TurnRow]:
        """Return the turns that are failed or abandoned, accepted before this time, newest first."""

    async def running(self, at: datetime, before: datetime | None, limit: int) -> Page[TurnRow]:
        """Return the turns that ran at this time, of those accepted in the 24 hours before it, newest first.

        With `before` only those that were accepted before that time, too.
        """


async def approvals(log: AuditLog, questions: Questions, wanted: RequestFilter, limit: int) -> Answer[Some]:
    """Return every decision with who took it, what was asked, what was changed and what came of it."""
    answer = await questions.decided(wanted, limit)
    told = await _told(log, answer.value.items)
    return Answer(answer.position, Some(told, answer.value.next))


async def rejected_and_retried(
    log: AuditLog, questions: Questions, wanted: RequestFilter, limit: int
) -> Answer[Some]:
    """Return each rejected call that was followed by another of the same tool, and that one."""
    answer = await questions.retried(wanted, limit)
    told = await _told(log, [one for pair in answer.value.items for one in pair])
    pairs = [{"rejected": told[n], "again": told[n + 1]} for n in range(0, len(told), 2)]
    return Answer(answer.position, Some(pairs, answer.value.next))


async def _told(log: AuditLog, requests: Sequence[Request]) -> list[dict[str, Any]]:
    events = await log.events([position for one in requests for position in one.positions])
    return [told(one, events) for one in requests]


def told(request: Request, events: Mapping[int, LoggedEvent]) -> dict[str, Any]:
    """Tell a request from beginning to end, in the words of the log."""
    return {
        "conversation_id": request.conversation,
        "kind": request.kind,
        "id": request.id,
        "agent": request.agent,
        "tool": request.tool,
        "asked": _said(events.get(request.requested), _ASKED),
        "decision": request.decision,
        "decided": _said(events.get(request.decided or 0), _CHANGED),
        "outcome": request.outcome,
        "ended": _said(events.get(request.ended or 0), _CAME),
    }


_ASKED: Final = ("arguments", "rule", "goal", "subtasks")
_CHANGED: Final = ("arguments_before", "arguments_after", "feedback")
_CAME: Final = ("result", "error", "reason", "detail", "feedback")


def _said(event: LoggedEvent | None, names: Sequence[str]) -> dict[str, Any] | None:
    if event is None:
        return None
    said = {name: event.data[name] for name in (*names, "unreadable") if name in event.data}
    about = {"position": event.position, "at": event.recorded_at.isoformat(), "by": event.actor}
    return {**about, "type": event.type, **said}
