"""The list of conversations: one row each, with its state, its counts, and what it waits for."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

from application.ports import LoggedEvent
from application.queries import Answer, ConversationFilter, ConversationSummary, Page, page_of
from infrastructure.postgres.pool import Pool
from infrastructure.projections.asking import Asker, conditions
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.splicing import call_of, request_of
from infrastructure.projections.values import ERASURE, EVERY_EVENT, from_json, owner_of, plain_text, to_json

TITLE_CHARACTERS: Final = 80

CONVERSATIONS: Final = Table(
    name="read_conversations",
    columns={
        "conversation": "text",
        "owner": "text",
        "title": "text",
        "searched": "text",  # the title, case folded: to fold all at every search takes long
        "state": "text",
        "agent": "text",
        "is_archived": "boolean",
        "open_calls": "text",  # JSON: whether each open call waits for a person, by its id, in order
        "plan_id": "text",
        "plan_version": "bigint",
        "plan_status": "text",
        "person_messages": "bigint",
        "agent_messages": "bigint",
        "calls": "bigint",
        "events": "bigint",
        "started_at": "timestamptz",
        "last_activity_at": "timestamptz",
        "last_position": "bigint",
    },
    key=("conversation",),
    indexes=("(owner, last_position)", "(owner, state, last_position)", "(owner, agent, last_position)"),
)


class ConversationList:
    """One row a conversation. Every event counts, so every event is read."""

    name: ClassVar[str] = "conversation_list"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (CONVERSATIONS,)
    types: ClassVar[frozenset[str]] = EVERY_EVENT

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the conversation's row."""
        return ((CONVERSATIONS.name, (event.conversation_id,)),)

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Count the event and let it change the row; of an erased one the receipt says all there is."""
        if event.type == ERASURE:
            rows.put(CONVERSATIONS, _erased(event))
            return
        before = rows.get(CONVERSATIONS, event.conversation_id)
        row = dict(before) if before else _new_row(event)
        row["events"] += 1
        row["last_activity_at"] = event.recorded_at
        row["last_position"] = event.position
        if change := _CHANGES.get(event.type):
            change(row, event)
            row["state"] = _state(row)
        rows.put(CONVERSATIONS, row)


def _new_row(event: LoggedEvent) -> Row:
    row: Row = dict.fromkeys(CONVERSATIONS.columns)
    row |= {"conversation": event.conversation_id, "owner": owner_of(event.actor), "state": "idle"}
    row |= dict.fromkeys(("person_messages", "agent_messages", "calls", "events"), 0)
    return row | {"is_archived": False, "open_calls": "{}", "started_at": event.recorded_at}


def _erased(event: LoggedEvent) -> Row:
    row, counts = _new_row(event), event.data["erased"]
    row |= {name: counts[name] for name in ("person_messages", "agent_messages", "calls")}
    row |= {"owner": owner_of(event.data["owner"]), "state": "erased", "events": counts["events"] + 1}
    began = datetime.fromisoformat(event.data["started_at"])
    return row | {"started_at": began, "last_activity_at": event.recorded_at, "last_position": event.position}


def _state(row: Row) -> str:
    """Say what the conversation waits for, by the rule of the aggregate."""
    if row["is_archived"]:
        return "archived"
    if row["plan_status"] in _PLAN_STATES:
        return _PLAN_STATES[row["plan_status"]]
    if "true" in row["open_calls"] and any(from_json(row["open_calls"]).values()):
        return "awaiting_decision"
    return "idle" if row["open_calls"] == "{}" else "awaiting_tool_results"


_PLAN_STATES: Final = {"execution": "plan_in_execution", "review": "plan_in_review"}

# --- what each event changes -----------------------------------------------------------------------

# They get the event, and not its data: data is decoded when somebody looks at it.
Change = Callable[[Row, LoggedEvent], None]


def _set(**values: Any) -> Change:
    def change(row: Row, _: LoggedEvent) -> None:
        row.update(values)

    return change


def _renamed(row: Row, event: LoggedEvent) -> None:
    _entitle(row, plain_text(event.data["title"]))


def _said_by_person(row: Row, event: LoggedEvent) -> None:
    row["person_messages"] += 1
    if row["title"] is None:
        _entitle(row, _shortened(plain_text(event.data["content"])))


def _entitle(row: Row, title: str) -> None:
    row["title"], row["searched"] = title, title.casefold()


def _shortened(text: str) -> str:
    words = " ".join(text[: TITLE_CHARACTERS * 8].split())
    return words if len(words) <= TITLE_CHARACTERS else words[: TITLE_CHARACTERS - 1].rstrip() + "…"


def _said_by_agent(row: Row, _: LoggedEvent) -> None:
    row["agent_messages"] += 1


def _call_requested(row: Row, event: LoggedEvent) -> None:
    row["calls"] += 1
    call_id, _, undecided, _ = request_of(event)
    _call(row, call_id, undecided=undecided)


def _call_decided(row: Row, event: LoggedEvent) -> None:
    call_id = call_of(event)
    if call_id in from_json(row["open_calls"]):
        _call(row, call_id, undecided=False)


def _call_over(row: Row, event: LoggedEvent) -> None:
    calls = from_json(row["open_calls"])
    calls.pop(call_of(event), None)
    row["open_calls"] = to_json(calls)


def _call(row: Row, call_id: str, *, undecided: bool) -> None:
    row["open_calls"] = to_json({**from_json(row["open_calls"]), call_id: undecided})


def _plan_proposed(row: Row, event: LoggedEvent) -> None:
    plan_id, plan_version = event.data["plan_id"], event.data["plan_version"]
    row.update(plan_id=plan_id, plan_version=plan_version, plan_status="review")


def _plan_now(status: str) -> Change:
    def change(row: Row, _: LoggedEvent) -> None:
        row["plan_status"] = row["plan_status"] and status

    return change


_plan_over = _set(plan_id=None, plan_version=None, plan_status=None)


def _agent_on(row: Row, event: LoggedEvent) -> None:
    row["agent"] = plain_text(event.data.get("to") or event.data["agent"])


_CHANGES: Final[Mapping[str, Change]] = {
    "conversation.renamed": _renamed,
    "conversation.archived": _set(is_archived=True),
    "conversation.reopened": _set(is_archived=False),
    "conversation.user_message_received": _said_by_person,
    "conversation.assistant_message_sent": _said_by_agent,
    "conversation.tool_call_requested": _call_requested,
    "conversation.tool_call_approved": _call_decided,
    "conversation.tool_call_edited": _call_decided,
    "conversation.tool_call_rejected": _call_over,
    "conversation.tool_call_closed": _call_over,
    "conversation.tool_result_received": _call_over,
    "conversation.plan_proposed": _plan_proposed,
    "conversation.plan_approved": _plan_now("execution"),
    "conversation.plan_modification_requested": _plan_now("revision"),
    "conversation.plan_rejected": _plan_over,
    "conversation.plan_superseded": _plan_over,
    "conversation.plan_completed": _plan_over,
    "conversation.plan_cancelled": _plan_over,
    "conversation.plan_failed": _plan_over,
    "agent.assigned": _agent_on,
    "agent.switched": _agent_on,
}

# --- queries ---------------------------------------------------------------------------------------

_CLAUSES: Final = {
    "search": "strpos(searched, %(search)s) > 0",
    "state": "state = %(state)s",
    "agent": "agent = %(agent)s",
    "before": "last_position < %(before)s",
}


class PostgresConversationList:
    """The list, asked in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._asker = Asker(pool, ConversationList.name)

    async def page(
        self, owner: str, wanted: ConversationFilter, before: int | None, limit: int
    ) -> Answer[Page[ConversationSummary]]:
        """Return the conversations whose newest event lies below `before`, newest first."""
        given = {
            "search": wanted.search and wanted.search.casefold(), "state": wanted.state,
            "agent": wanted.agent, "before": before, "owner": owner, "limit": limit + 1,
        }  # fmt: skip
        query = f"""
            SELECT * FROM {CONVERSATIONS.name} WHERE owner = %(owner)s AND {conditions(given, _CLAUSES)}
             ORDER BY last_position DESC LIMIT %(limit)s"""
        found = await self._asker.ask(query, "last_position DESC", given)
        return Answer(found.position, page_of([_summary(row) for row in found.rows], limit))

    async def one(self, owner: str, conversation_id: str) -> Answer[ConversationSummary | None]:
        """Return one conversation, None where there is none for this owner."""
        query = f"SELECT * FROM {CONVERSATIONS.name} WHERE conversation = %(id)s AND owner = %(owner)s"
        values = {"id": conversation_id, "owner": owner}
        found = await self._asker.ask(query, "conversation", values, kept_plan=True)
        return Answer(found.position, _summary(found.rows[0]) if found.rows else None)


def _summary(row: Row) -> ConversationSummary:
    calls = from_json(row["open_calls"])
    plan = {"plan_id": row["plan_id"], "plan_version": row["plan_version"]}
    waiting = {
        "calls": list(calls),
        "decisions": [call_id for call_id, undecided in calls.items() if undecided],
        "plan": plan if row["plan_status"] == "review" else None,
    }
    same = ("title", "state", "agent", "person_messages", "agent_messages", "calls", "events")
    times = ("started_at", "last_activity_at", "last_position")
    fields = {name: row[name] for name in same + times}
    return ConversationSummary(conversation_id=row["conversation"], waiting_for=waiting, **fields)
