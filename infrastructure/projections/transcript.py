"""The transcripts: one row for each thing said, asked, planned or changed, with what became of it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from application.ports import LoggedEvent
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.splicing import (
    approval_of,
    call_of,
    members,
    message_of,
    quoted,
    request_of,
    result_of,
)
from infrastructure.projections.values import ERASURE, named, owner_of, plain_text, to_json
from infrastructure.projections.words import numbers_of

Data = Mapping[str, Any]

TRANSCRIPTS: Final = Table(
    name="read_transcripts", columns={"conversation": "text", "owner": "text"}, key=("conversation",)
)
ENTRIES: Final = Table(
    name="read_entries",
    columns={
        "conversation": "text",
        "entry": "text",  # <kind>:<id>, by which later events find it
        "owner": "text",
        "position": "bigint",
        "kind": "text",
        "actor": "text",
        "agent": "text",
        "text": "text",
        "recorded_at": "timestamptz",
        "changed_position": "bigint",
        "detail": "text",  # JSON: what the first event says
        "status": "text",
        "decision": "text",  # JSON, as the outcome: what a later event says, who signs it and when
        "outcome": "text",
        "words": "int[]",  # of the text, as numbers: see words.py
    },
    key=("conversation", "entry"),
    indexes=(
        "(conversation, position)",
        "(owner, position) WHERE text IS NOT NULL",
        "USING gin (words)",
    ),
)


class Transcript:
    """One row an entry. Its position is that of its first event, which orders the transcript."""

    name: ClassVar[str] = "transcript"
    version: ClassVar[int] = 5
    tables: ClassVar[tuple[Table, ...]] = (TRANSCRIPTS, ENTRIES)
    types: ClassVar[frozenset[str]]

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the row that knows the owner, and the entry where the event is about an earlier one."""
        yield TRANSCRIPTS.name, (event.conversation_id,)
        if about := _LATER.get(event.type):
            yield ENTRIES.name, (event.conversation_id, about[0](event))

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Add an entry, or let one know what became of it."""
        if begin := _NEW.get(event.type):
            _add(rows, event, begin(event))
        elif later := _LATER.get(event.type):
            _change(rows, event, *later)
        elif event.type == "conversation.started":
            row = {"conversation": event.conversation_id, "owner": owner_of(event.actor)}
            rows.put(TRANSCRIPTS, row)
        elif event.type == ERASURE:
            owner = owner_of(event.data["owner"])
            rows.put(TRANSCRIPTS, {"conversation": event.conversation_id, "owner": owner})
            detail = to_json(named(event.data, "reason", "erased"))
            _add(rows, event, ("erasure", str(event.position), None, None, None, detail))


def _add(rows: Rows, event: LoggedEvent, begun: "Begun") -> None:
    kind, id_, agent, text, status, detail = begun
    conversation, position = event.conversation_id, event.position
    about = rows.get(TRANSCRIPTS, conversation)
    row = {
        "conversation": conversation,
        "entry": f"{kind}:{id_}",
        "owner": about["owner"] if about else "",
        "position": position,
        "kind": kind,
        "actor": plain_text(event.actor),
        "agent": agent and plain_text(agent),
        "text": None if text is None else plain_text(text),
        "recorded_at": event.recorded_at,
        "changed_position": position,
        "detail": detail,
        "status": status,
        "decision": None,
        "outcome": None,
        "words": None if text is None else numbers_of(text),
    }
    rows.put(ENTRIES, row)


def _change(rows: Rows, event: LoggedEvent, key: "KeyOf", become: "Become") -> None:
    entry = rows.get(ENTRIES, event.conversation_id, key(event))
    if entry:
        rows.put(ENTRIES, {**entry, "changed_position": event.position, **become(event)})


# --- what begins an entry: its kind, its id, its agent, its text, its status, its detail --------------

Begun = tuple[str, str, str | None, str | None, str | None, str]
Begin = Callable[[LoggedEvent], Begun]


def _message(role: str, *names: str) -> Begin:
    def begin(event: LoggedEvent) -> Begun:
        agent, content, detail = message_of(event, role, *names)
        return "message", str(event.position), agent, content, None, detail

    return begin


def _call(event: LoggedEvent) -> Begun:
    call_id, agent, requires_decision, detail = request_of(event)
    status = "awaiting_decision" if requires_decision else "awaiting_result"
    return "call", call_id, agent, None, status, detail


def _plan(event: LoggedEvent) -> Begun:
    data = event.data
    proposed = named(data, "plan_id", "plan_version", "goal", "subtasks")
    text = "\n".join([data["goal"], *(task["description"] for task in data["subtasks"])])
    return "plan", _version_of(data), data.get("agent"), text, "in_review", to_json(proposed)


def _subtask(event: LoggedEvent) -> Begun:
    data = event.data
    started = named(data, "plan_id", "subtask_id", "description")
    return "subtask", _subtask_of(data), data.get("agent"), None, "running", to_json(started)


def _switch(event: LoggedEvent) -> Begun:
    said = named(event.data, "from", "to", "reason", "requested_by")
    return "switch", str(event.position), event.data.get("agent"), None, None, to_json(said)


def _cancellation(event: LoggedEvent) -> Begun:
    said = {"turn_id": event.turn_id}
    return "cancellation", str(event.position), event.data.get("agent"), None, None, to_json(said)


_NEW: Final[Mapping[str, Begin]] = {
    "conversation.user_message_received": _message("user"),
    "conversation.assistant_message_sent": _message("assistant", "truncated", "finish_reason"),
    "conversation.tool_call_requested": _call,
    "conversation.plan_proposed": _plan,
    "conversation.subtask_started": _subtask,
    "conversation.turn_cancelled": _cancellation,
    "agent.switched": _switch,
}

# --- what becomes of an entry: how it is found, and what its row says from now on ------------------

KeyOf = Callable[[LoggedEvent], str]
Become = Callable[[LoggedEvent], Row]


def _version_of(data: Data) -> str:
    return f"{data['plan_id']}/{data['plan_version']}"


def _subtask_of(data: Data) -> str:
    return f"{data['plan_id']}/{data['subtask_id']}"


def _call_key(event: LoggedEvent) -> str:
    return f"call:{call_of(event)}"


def _plan_key(event: LoggedEvent) -> str:
    return f"plan:{_version_of(event.data)}"


def _subtask_key(event: LoggedEvent) -> str:
    return f"subtask:{_subtask_of(event.data)}"


def _signed(event: LoggedEvent, said: str) -> str:
    """Return the JSON of these members, with who signs them and when."""
    by = f'"by":{quoted(event.actor)},"position":{event.position}'
    return f'{{{said}{said and ","}{by},"recorded_at":"{event.recorded_at.isoformat()}"}}'


def _decided(decision: str, status: str, *names: str) -> Become:
    def become(event: LoggedEvent) -> Row:
        said = {"decision": decision, **named(event.data, *names)}
        return {"status": status, "decision": _signed(event, members(said))}

    return become


def _ended(status: str, *names: str) -> Become:
    def become(event: LoggedEvent) -> Row:
        return {"status": status, "outcome": _signed(event, members(named(event.data, *names)))}

    return become


def _approved(event: LoggedEvent) -> Row:
    said = f'"decision":"approve",{approval_of(event)}'
    return {"status": "awaiting_result", "decision": _signed(event, said)}


def _answered(event: LoggedEvent) -> Row:
    return {"status": "answered", "outcome": _signed(event, result_of(event))}


_EDITED: Final = ("arguments_before", "arguments_after", "feedback")
_LATER: Final[Mapping[str, tuple[KeyOf, Become]]] = {
    "conversation.tool_call_approved": (_call_key, _approved),
    "conversation.tool_call_edited": (_call_key, _decided("edit", "awaiting_result", *_EDITED)),
    "conversation.tool_call_rejected": (_call_key, _decided("reject", "rejected", "feedback")),
    "conversation.tool_call_closed": (_call_key, _ended("closed", "reason", "detail")),
    "conversation.tool_result_received": (_call_key, _answered),
    "conversation.plan_approved": (_plan_key, _decided("approve", "in_execution", "feedback")),
    "conversation.plan_modification_requested": (_plan_key, _decided("modify", "sent_back", "feedback")),
    "conversation.plan_rejected": (_plan_key, _decided("reject", "rejected", "feedback")),
    "conversation.plan_superseded": (_plan_key, _ended("superseded")),
    "conversation.plan_completed": (_plan_key, _ended("completed")),
    "conversation.plan_cancelled": (_plan_key, _ended("cancelled", "reason")),
    "conversation.plan_failed": (_plan_key, _ended("failed", "reason")),
    "conversation.subtask_completed": (_subtask_key, _ended("completed")),
    "conversation.subtask_failed": (_subtask_key, _ended("failed", "reason")),
}  # fmt: skip

Transcript.types = frozenset({"conversation.started", ERASURE, *_NEW, *_LATER})
