"""The transcripts: one row for each thing said, asked, planned or changed, with what became of it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from application.ports import LoggedEvent
from application.queries import Answer, Entry, Hit, Page, Piece, Range, page_of
from infrastructure.postgres.pool import Pool
from infrastructure.projections.asking import Asker, conditions
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.splicing import (
    answered_call,
    members,
    message_of,
    quoted,
    request_of,
    result_of,
)
from infrastructure.projections.values import ERASURE, from_json, named, owner_of, plain_text, to_json
from infrastructure.projections.words import SEARCHED, numbers_of, wanted

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
    version: ClassVar[int] = 4
    tables: ClassVar[tuple[Table, ...]] = (TRANSCRIPTS, ENTRIES)
    types: ClassVar[frozenset[str]]

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the row that knows the owner, and the entry where the event is about an earlier one."""
        yield TRANSCRIPTS.name, (event.conversation_id,)
        if about := _LATER.get(event.type):
            yield ENTRIES.name, (event.conversation_id, about[0](event))

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Add an entry, or let one know what became of it."""
        if event.type == "conversation.started":
            row = {"conversation": event.conversation_id, "owner": owner_of(event.actor)}
            rows.put(TRANSCRIPTS, row)
        elif event.type == ERASURE:
            owner = owner_of(event.data["owner"])
            rows.put(TRANSCRIPTS, {"conversation": event.conversation_id, "owner": owner})
            detail = to_json(named(event.data, "reason", "erased"))
            _add(rows, event, ("erasure", str(event.position), None, None, None, detail))
        elif begin := _NEW.get(event.type):
            _add(rows, event, begin(event))
        elif later := _LATER.get(event.type):
            _change(rows, event, *later)


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
        said = message_of(event, role, *names)
        return "message", str(event.position), said.agent, said.content, None, said.detail

    return begin


def _call(event: LoggedEvent) -> Begun:
    asked = request_of(event)
    status = "awaiting_decision" if asked.requires_decision else "awaiting_result"
    return "call", asked.call_id, asked.agent, None, status, asked.detail


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
    return f"call:{event.data['call_id']}"


def _answered_key(event: LoggedEvent) -> str:
    return f"call:{answered_call(event)}"


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


def _answered(event: LoggedEvent) -> Row:
    return {"status": "answered", "outcome": _signed(event, result_of(event))}


_EDITED: Final = ("arguments_before", "arguments_after", "feedback")
_LATER: Final[Mapping[str, tuple[KeyOf, Become]]] = {
    "conversation.tool_call_approved": (
        _call_key, _decided("approve", "awaiting_result", "arguments", "feedback")
    ),
    "conversation.tool_call_edited": (_call_key, _decided("edit", "awaiting_result", *_EDITED)),
    "conversation.tool_call_rejected": (_call_key, _decided("reject", "rejected", "feedback")),
    "conversation.tool_call_closed": (_call_key, _ended("closed", "reason", "detail")),
    "conversation.tool_result_received": (_answered_key, _answered),
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

# --- queries -----------------------------------------------------------------------------------------

_CLAUSES: Final = {"after": "position > %(after)s", "before": "position < %(before)s"}
_KNOWN: Final = (
    f"EXISTS (SELECT FROM {TRANSCRIPTS.name} WHERE conversation = %(conversation)s AND owner = %(owner)s)"
)
# No text has these two characters in it that anybody would want to see: they mark what was found.
_START, _STOP = "\x02", "\x03"
_HEADLINE: Final = (
    f"StartSel={_START}, StopSel={_STOP}, MaxFragments=2, MaxWords=24, MinWords=8, FragmentDelimiter= … "
)
# The numbers find, the text itself decides. How often it agrees is nothing the planner should guess at: it
# has counted the numbers, and takes what it cannot see through for half.
_AGREES: Final = f"""
    CASE WHEN position > 0 THEN to_tsvector('simple', left(text, {SEARCHED})) @@ looked_for END"""
# The planner takes the splitting of a text into words for a hundredth of what it is (35 µs a message were
# measured), and would do it for tens of thousands of entries rather than look the words up.
_DEAR_WORDS: Final = "SET LOCAL cpu_operator_cost = 0.1; SET LOCAL max_parallel_workers_per_gather = 0"
_COLUMNS: Final = ", ".join(name for name in ENTRIES.columns if name != "words")


class PostgresTranscripts:
    """The transcripts, asked in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._asker = Asker(pool, Transcript.name)

    async def page(
        self, owner: str, conversation_id: str, wanted: Range, limit: int
    ) -> Answer[Page[Entry] | None]:
        """Return entries of one conversation, None where there is none for this owner."""
        given = {
            "conversation": conversation_id, "owner": owner, "limit": limit + 1,
            "after": wanted.after, "before": wanted.before,
        }  # fmt: skip
        order = "position DESC" if wanted.newest_first else "position"
        query = f"""
            SELECT {_COLUMNS} FROM {ENTRIES.name}
             WHERE conversation = %(conversation)s AND owner = %(owner)s AND {conditions(given, _CLAUSES)}
             ORDER BY {order} LIMIT %(limit)s"""
        found = await self._asker.ask(query, order, given, _KNOWN, kept_plan=True)
        page = page_of([entry_of(row) for row in found.rows], limit) if found.known else None
        return Answer(found.position, page)

    async def search(self, owner: str, words: str, before: int | None, limit: int) -> Answer[Page[Hit]]:
        """Return the entries with these words in all conversations of the owner, newest first."""
        given = {"owner": owner, "words": words, "before": before, "limit": limit + 1, "headline": _HEADLINE}
        arrays = {f"numbers{index}": numbers for index, numbers in enumerate(wanted(words))}
        may_have = " OR ".join(f"words @> %({name})s::int[]" for name in arrays) or "true"
        query = f"""
            SELECT conversation, position, kind, actor, recorded_at,
                   ts_headline('simple', left(text, {SEARCHED}), looked_for, %(headline)s) AS headline
              FROM (SELECT entry.*, looked_for
                      FROM websearch_to_tsquery('simple', %(words)s) AS looked_for, {ENTRIES.name} AS entry
                     WHERE owner = %(owner)s AND text IS NOT NULL AND numnode(looked_for) > 0
                       AND ({may_have}) AND {_AGREES} AND {conditions(given, _CLAUSES)}
                     ORDER BY position DESC LIMIT %(limit)s) AS hit"""
        found = await self._asker.ask(query, "position DESC", given | arrays, planning=_DEAR_WORDS)
        return Answer(found.position, page_of([_hit(row) for row in found.rows], limit))


def entry_of(row: Row) -> Entry:
    """Return a row as the answers show it."""
    names = ("position", "kind", "actor", "agent", "text", "recorded_at", "changed_position")
    return Entry(**{name: row[name] for name in names}, detail=detail_of(row))


def detail_of(row: Row) -> dict[str, Any]:
    """Return what an entry says of itself; of a call, a plan or a subtask also what became of it."""
    detail: dict[str, Any] = from_json(row["detail"])
    if row["status"] is None:
        return detail
    detail["status"] = row["status"]
    for name in ("outcome",) if row["kind"] == "subtask" else ("decision", "outcome"):
        detail[name] = from_json(row[name]) if row[name] else None
    return detail


def _hit(row: Row) -> Hit:
    names = ("position", "kind", "actor", "recorded_at")
    fields = {name: row[name] for name in names}
    return Hit(conversation_id=row["conversation"], highlight=_pieces(row["headline"]), **fields)


def _pieces(headline: str) -> list[Piece]:
    pieces: list[Piece] = []
    for part in headline.split(_START):
        found, stop, rest = part.rpartition(_STOP)
        pieces += [Piece(text, match) for text, match in ((found, bool(stop)), (rest, False)) if text]
    return pieces
