"""What was asked for: one row for each tool call and version of a plan, with where the log tells the rest.

It holds no contents: arguments, results and feedback are read from the log, at these positions.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from application.ports import LoggedEvent
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.values import plain_text

REQUESTS: Final = Table(
    name="read_requests",
    columns={
        "conversation": "text",
        "id": "text",  # the call's id, or <plan id>/<version>
        "kind": "text",  # call, plan
        "tool": "text",
        "agent": "text",
        "requested": "bigint",
        "decided": "bigint",
        "decision": "text",  # approve, edit, modify, reject
        "ended": "bigint",
        "outcome": "text",  # answered, error, closed, rejected, superseded, completed, cancelled, failed
    },
    key=("conversation", "id"),
    indexes=("(decided) WHERE decided IS NOT NULL", "(decided) WHERE decision = 'reject'"),
)
TOOL_EVENTS: Final = Table(
    name="read_tool_events",
    columns={"conversation": "text", "position": "bigint", "tool": "text"},
    key=("conversation", "position"),
    indexes=("(tool, position)",),
)

_DECIDED: Final = {
    "conversation.tool_call_approved": "approve",
    "conversation.tool_call_edited": "edit",
    "conversation.tool_call_rejected": "reject",
    "conversation.plan_approved": "approve",
    "conversation.plan_modification_requested": "modify",
    "conversation.plan_rejected": "reject",
}
_ENDED: Final = {
    "conversation.tool_call_rejected": "rejected",
    "conversation.tool_call_closed": "closed",
    "conversation.tool_result_received": "answered",
    "conversation.plan_rejected": "rejected",
    "conversation.plan_superseded": "superseded",
    "conversation.plan_completed": "completed",
    "conversation.plan_cancelled": "cancelled",
    "conversation.plan_failed": "failed",
}
_ASKED: Final = {"conversation.tool_call_requested": "call", "conversation.plan_proposed": "plan"}


class Requests:
    """A request's row learns where it was decided and where it ended."""

    name: ClassVar[str] = "requests"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (REQUESTS, TOOL_EVENTS)
    types: ClassVar[frozenset[str]] = frozenset({*_ASKED, *_DECIDED, *_ENDED})

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the row of the request that the event is about."""
        if event.type not in _ASKED:
            yield REQUESTS.name, (event.conversation_id, id_of(event.data))

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Begin a row, or let one know what became of it."""
        tool = event.data.get("tool")
        if tool is not None:
            about = {"conversation": event.conversation_id, "position": event.position}
            rows.put(TOOL_EVENTS, {**about, "tool": plain_text(tool)})
        if kind := _ASKED.get(event.type):
            rows.put(REQUESTS, _begun(event, kind, tool))
        elif row := rows.get(REQUESTS, event.conversation_id, id_of(event.data)):
            rows.put(REQUESTS, {**row, **_become(event)})


def _begun(event: LoggedEvent, kind: str, tool: str | None) -> Row:
    return {
        **dict.fromkeys(REQUESTS.columns),
        "conversation": event.conversation_id,
        "id": id_of(event.data),
        "kind": kind,
        "tool": tool and plain_text(tool),
        "agent": plain_text(event.data["agent"]),
        "requested": event.position,
    }


def _become(event: LoggedEvent) -> Row:
    changes: Row = {}
    if decision := _DECIDED.get(event.type):
        changes |= {"decided": event.position, "decision": decision}
    if outcome := _ENDED.get(event.type):
        failed = event.data.get("error") is not None
        changes |= {"ended": event.position, "outcome": "error" if failed else outcome}
    return changes


def id_of(data: Mapping[str, Any]) -> str:
    """Return the id of the call or the version of the plan that an event is about."""
    if "call_id" in data:
        return plain_text(data["call_id"])
    return f"{data['plan_id']}/{data['plan_version']}"
