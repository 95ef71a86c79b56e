"""The frames out (the code twin of "Frames" in docs/protocol.md)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from application.errors import InvalidCursorError
from application.ports import LoggedEvent, TurnRow
from domain.conversation import Conversation
from domain.errors import MinutebookError

STARTED = "turn.started"
DELTA = "turn.delta"
STATUS = "turn.status"
COMMITTED = "turn.committed"
FAILED = "turn.failed"
IDLE: Mapping[str, Any] = {"state": "idle", "waiting_for": {"calls": [], "decisions": [], "plan": None}}


@dataclass(slots=True)
class Frame:
    """One SSE message of a turn's stream; its id is `<attempt>.<seq>`."""

    type: str
    attempt: int
    seq: int
    body: Mapping[str, Any]
    # The bytes on the wire, made once for all who watch (filled by the SSE encoder).
    encoded: bytes | None = field(default=None, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after this frame."""
        return self.type in (COMMITTED, FAILED)


def frame(row: TurnRow, seq: int, type_: str, fields: Mapping[str, Any]) -> Frame:
    """Make one frame of this turn."""
    about = {"conversation_id": row.conversation_id, "turn_id": row.turn_id, "seq": seq}
    return Frame(type_, row.attempt, seq, {**about, **fields})


def committed_frames(row: TurnRow, events: Sequence[LoggedEvent]) -> list[Frame]:
    """Make the frames of a committed turn: its events, then the terminal one.

    They follow the provisional frames that were counted at the commit, so their `seq` is for ever.
    """
    first = row.provisional_frames + 1
    frames = [frame(row, first + i, event.type, event_fields(event)) for i, event in enumerate(events)]
    return [*frames, _committed(row, first + len(events), len(events))]


def event_fields(event: LoggedEvent) -> dict[str, Any]:
    """Return what a committed frame says: the event as it stands in the log."""
    return {
        "position": event.position,
        "recorded_at": event.recorded_at.isoformat(),
        "actor": event.actor,
        "data": event.data,
    }


def _committed(row: TurnRow, seq: int, events: int) -> Frame:
    fields = {
        "first_position": row.first_position,
        "last_position": row.last_position,
        "events": events,
        **(row.outcome or IDLE),
        "is_final": True,
    }
    return frame(row, seq, COMMITTED, fields)


def failed_frame(row: TurnRow, error: MinutebookError, seq: int) -> Frame:
    """Make the terminal frame of a turn that failed or was abandoned."""
    said = {"code": error.code, "message": str(error), "retryable": error.retryable, "is_final": True}
    return frame(row, seq, FAILED, said)


def outcome_of(conversation: Conversation) -> dict[str, Any] | None:
    """Return what a terminal frame says about the conversation; None stands for idle."""
    calls = conversation.calls
    plan = conversation.plan_in("review")
    waiting = {
        "calls": list(calls),
        "decisions": [call_id for call_id, call in calls.items() if call.undecided],
        "plan": {"plan_id": plan.plan_id, "plan_version": plan.version} if plan else None,
    }
    outcome = {"state": conversation.state, "waiting_for": waiting}
    return None if outcome == IDLE else outcome


def seq_after(cursor: str | None, attempt: int) -> int:
    """Return the `seq` after which a reader with this cursor goes on in this attempt.

    A cursor of another attempt reads this one from its start. Raises `InvalidCursorError`.
    """
    if not cursor:
        return 0
    first, dot, second = cursor.partition(".")
    if not (dot and _is_number(first) and _is_number(second)):
        raise InvalidCursorError(reason="it reads <attempt>.<seq>")
    return int(second) if int(first) == attempt else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def after(frames: Iterable[Frame], seq: int) -> list[Frame]:
    """Return the frames a reader has not seen; the terminal one is never left out."""
    return [one for one in frames if one.seq > seq or one.is_final]
