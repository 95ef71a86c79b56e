"""One event with what stands around it: its turn, the turn's events, and what led to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from application.audit import AuditLog, event_said, every_page
from application.audit_filter import EventFilter
from application.errors import EventNotFoundError
from application.ports import LoggedEvent, TurnRow

TURN_EVENTS: Final = 1_000
LOOKED_AT: Final = 2_000  # how many events back what led to one is looked for
_MESSAGE: Final = "conversation.user_message_received"
_BEGINNINGS: Final = frozenset({"conversation.tool_call_requested", "conversation.plan_proposed"})


@dataclass(frozen=True, slots=True)
class Shown:
    """An event, its turn (None where no row tells of it), the turn's events, and what led to it.

    Of a turn with more than `TURN_EVENTS` (`is_cut`) those before and after the event are there.
    """

    event: LoggedEvent
    turn: TurnRow | None
    turn_events: Sequence[LoggedEvent]
    led_to_by: Sequence[LoggedEvent]
    is_cut: bool = False


async def shown(log: AuditLog, position: int) -> Shown:
    """Return the event at this position with what stands around it. Raises `EventNotFoundError`."""
    event = (await log.events([position])).get(position)
    if event is None:
        raise EventNotFoundError(position=position)
    turn = await log.turn(event.turn_id)
    some, is_cut = await _turn_events(log, event)
    return Shown(event, turn, some, await _led_to(log, event), is_cut)


async def _turn_events(log: AuditLog, event: LoggedEvent) -> tuple[list[LoggedEvent], bool]:
    """Return the events of the same turn, and whether there are more of them on either side.

    In a stream of another application there are no turns.
    """
    if not event.conversation_id:
        return [event], False
    wanted = EventFilter(conversation=event.conversation_id, turn=event.turn_id)
    until = await _some(log, replace(wanted, before=event.position + 1, newest_first=True))
    after = await _some(log, replace(wanted, after=event.position))
    behind = min(len(after), max(TURN_EVENTS - len(until), TURN_EVENTS // 2))
    before = min(len(until), TURN_EVENTS - behind)
    is_cut = before < len(until) or behind < len(after)
    return [*until[:before][::-1], *after[:behind]], is_cut


async def _some(log: AuditLog, wanted: EventFilter) -> list[LoggedEvent]:
    """Return what is wanted, up to one more than is shown."""
    return [one async for page in every_page(log, wanted, TURN_EVENTS + 1) for one in page.value.events]


async def _led_to(log: AuditLog, event: LoggedEvent) -> list[LoggedEvent]:
    """Walk back to what the person said last, and to the beginning of the call or plan it is about."""
    if not event.conversation_id:
        return []
    found: list[LoggedEvent] = []
    about = _about(event)
    missing = {"message"} | ({"beginning"} if about and event.type not in _BEGINNINGS else set())
    wanted = EventFilter(conversation=event.conversation_id, before=event.position, newest_first=True)
    async for page in every_page(log, wanted, LOOKED_AT):
        for one in page.value.events:
            if one.type == _MESSAGE and "message" in missing:
                found.append(one)
                missing.discard("message")
            elif about and _about(one) == about:
                found.append(one)
                missing -= {"beginning"} if one.type in _BEGINNINGS else set()
            if not missing:
                return found[::-1]
    return found[::-1]


def _about(event: LoggedEvent) -> tuple[str, str] | None:
    """Return which call or plan an event is about."""
    for name in ("call_id", "plan_id"):
        if name in event.data:
            return name, event.data[name]
    return None


def shown_said(it: Shown) -> Mapping[str, Any]:
    """Return it as the audit shows it."""
    return {
        "event": event_said(it.event),
        "turn": turn_said(it.turn) if it.turn else None,
        "turn_events": list(map(event_said, it.turn_events)),
        "turn_events_cut": it.is_cut,
        "led_to_by": list(map(event_said, it.led_to_by)),
    }


def turn_said(row: TurnRow) -> dict[str, Any]:
    """Return a turn's row as the audit shows it: what was sent stands in the log, or nowhere else."""
    return {
        "turn_id": row.turn_id,
        "conversation_id": row.conversation_id,
        "by": f"user:{row.subject}",
        "kind": row.kind,
        "state": row.state,
        "attempt": row.attempt,
        "node": row.node,
        "accepted_at": row.accepted_at.isoformat(),
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
        "first_position": row.first_position,
        "last_position": row.last_position,
        "code": row.code,
    }
