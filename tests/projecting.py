"""Read models under test: one that counts, logs to fold, and a fold over the whole log to compare with."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import psycopg

from application.ports import LoggedEvent
from domain.agent import Agent
from domain.aggregate import By
from domain.conversation import Conversation
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.key_store import keys_of
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.projections import follow
from infrastructure.projections.follow import Projector
from infrastructure.projections.read_model import ReadModel, RowKey, Rows, Table
from infrastructure.projections.reading import COLUMNS, StoredEvent
from tests.asking import query
from tests.opened import vault
from tests.unit.commands import TASKS, Command, do

COUNTS = Table(
    "counts",
    {"conversation": "text", "events": "bigint", "newest": "bigint", "said": "json"},
    ("conversation",),
    ("(newest)",),
)
NOTES = Table(
    "notes", {"conversation": "text", "position": "bigint", "type": "text"}, ("conversation", "position")
)
BAD = "conversation.archived"


class Counting:
    """Counts a conversation's events, keeps what was last said, and a note of each event."""

    name: ClassVar[str] = "counting"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (COUNTS, NOTES)
    types: ClassVar[frozenset[str]] = frozenset(
        {
            "conversation.started",
            "conversation.user_message_received",
            "conversation.archived",
            "conversation.reopened",
            "agent.switched",
        }
    )

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        yield COUNTS.name, (event.conversation_id,)
        yield NOTES.name, (event.conversation_id, event.position)

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        before = rows.get(COUNTS, event.conversation_id) or {"events": 0, "said": None}
        said = event.data["content"] if event.type.endswith("message_received") else before["said"]
        rows.put(
            COUNTS,
            {
                "conversation": event.conversation_id,
                "events": before["events"] + self.step(),
                "newest": event.position,
                "said": said,
            },
        )
        rows.put(
            NOTES,
            {"conversation": event.conversation_id, "position": event.position, "type": event.type},
        )

    def step(self) -> int:
        return 1


class CountingTwice(Counting):
    """The next version: every event counts double."""

    version: ClassVar[int] = 2

    def step(self) -> int:
        return 2


class Slow(Counting):
    """Takes its time, so that a kill finds it at work."""

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        time.sleep(0.001)
        super().fold(rows, event)


class Stumbling(Counting):
    """Cannot fold an event of one type."""

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        super().fold(rows, event)
        if event.type == BAD:
            raise KeyError("what is this")


class Other(Counting):
    """The same under another name, which nobody disturbs."""

    name: ClassVar[str] = "other"
    tables: ClassVar[tuple[Table, ...]] = (
        Table("other_counts", COUNTS.columns, COUNTS.key),
        Table("other_notes", NOTES.columns, NOTES.key),
    )

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        yield self.tables[0].name, (event.conversation_id,)

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        table = self.tables[0]
        before = rows.get(table, event.conversation_id) or {"events": 0}
        row = {"conversation": event.conversation_id, "events": before["events"] + 1}
        rows.put(table, {**row, "newest": event.position, "said": None})


# ---------------------------------------------------------------- logs
def asked(call_id: str, *, requires_decision: bool = True) -> Command:
    call = {
        "model_call_id": "call_0", "tool": "write_file", "agent": "coder", "rule": "writing",
        "arguments": {"path": "a.txt", "of": call_id}, "requires_decision": requires_decision,
    }  # fmt: skip
    return ("request_call", (call_id, call))


# All that a read model may have to say of a conversation; in the end a call waits for a person.
TALK: list[Command] = [
    ("receive_user_message", ("m1", "one")),
    ("send_assistant_message", ("m2", "coder", "good morning", "tool_calls")),
    asked("call-1"), ("decide_call", ("call-1", "edit", {"path": "b.txt"}, None)),
    ("receive_tool_result", ("call-1", "written", None)),
    asked("call-2"), ("decide_call", ("call-2", "reject", None, "better not")),
    asked("call-3", requires_decision=False), ("receive_tool_result", ("call-3", None, "no such file")),
    asked("call-4", requires_decision=False), ("close_call", ("call-4", "superseded")),
    ("propose_plan", ("p1", "goal", [task.to_json() for task in TASKS], "architect")),
    ("decide_plan", ("p1", 1, "approve", None)),
    ("start_subtask", (TASKS[0],)), ("complete_subtask", ()),
    ("start_subtask", (TASKS[1],)), ("complete_subtask", ()),
    ("rename", ("a title",)), ("archive", ()), ("reopen", ()),
    ("receive_user_message", ("m3", "two\0 \ud800 half")),
    asked("call-5"),
]  # fmt: skip


def happened(conversation_id: str, history: Sequence[Command]) -> list[NewEvent]:
    """Let a conversation go through all of it and return its events, with its agent's, in order."""
    mapper, by = MinutesMapper(), By("user:ada", "turn-0")
    conversation, agent = Conversation.begin(conversation_id, by), Agent.assign(conversation_id, "coder", by)
    events = [*conversation.collect_events(), *agent.collect_events()]
    for number, command in enumerate(history, start=1):
        by = By("user:ada" if number % 3 else "agent:coder", f"turn-{number}")
        do(conversation, command, by)
        if number % 4 == 1:
            agent.note_model_call(f"model-{number % 2}", number, 2, 3, "stop", by)
        if number % 5 == 2:
            agent.switch("ask" if agent.name == "coder" else "coder", "asked", "user:ada", by)
        events += [*conversation.collect_events(), *agent.collect_events()]
    return [mapper.to_new_event(event) for event in events]  # type: ignore[arg-type]


def talks(count: int, first: int = 0, history: Sequence[Command] = TALK) -> list[NewEvent]:
    """Return the events of so many conversations, in all of which the same happens side by side."""
    return woven([happened(f"c{number}", history) for number in range(first, first + count)])


def woven(logs: Sequence[Sequence[NewEvent]]) -> list[NewEvent]:
    """Return the events of several conversations as if they had run side by side."""
    longest = max(map(len, logs), default=0)
    return [log[step] for step in range(longest) for log in logs if step < len(log)]


def store(url: str, events: Sequence[NewEvent]) -> int:
    """Append the events as they are; returns the position of the newest."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT position FROM log_head, pg_advisory_xact_lock(append_lock())"
        ).fetchone()
        head = row[0] if row else 0
        connection.cursor().executemany(
            "INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)"
            " VALUES (%s, now(), %s, %s, %s, %s, %s, %s, %s)",
            [
                (head + n, e.version, e.stream, e.type, e.conversation, e.turn, e.actor, e.data)
                for n, e in enumerate(events, start=1)
            ],
        )
    return int(head) + len(events)


# ---------------------------------------------------------------- what the tables hold
Contents = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


def reference(url: str, model: ReadModel, last: int | None = None) -> Contents:
    """Fold the whole log in memory, event by event: what the tables must hold."""
    rows = Rows()
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        query = f"SELECT {COLUMNS} FROM log ORDER BY position"
        events: list[Any] = [StoredEvent(*values) for values in connection.cursor(binary=True).execute(query)]
        keys = keys_of(connection, vault(), {event.conversation_id for event in events})
        for event in events:
            event.key = keys.get(event.conversation_id)
            if event.is_erased:
                continue
            if event.type in model.types and (last is None or event.position <= last):
                model.fold(rows, event)
    contents: Contents = {table.name: {} for table in model.tables}
    for (name, key), row in rows.changed.items():
        contents[name][key] = row
    return contents


def held(url: str, model: ReadModel, suffix: str = "") -> Contents:
    """Return what the tables hold."""
    contents: Contents = {}
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        for table in model.tables:
            columns = [
                f"substr(array_send({name}), 21)" if kind == "int[]" else name
                for name, kind in table.columns.items()
            ]
            cursor = connection.execute(f"SELECT {', '.join(columns)} FROM {table.name}{suffix}".encode())
            found = [dict(zip(table.columns, values, strict=True)) for values in cursor]
            contents[table.name] = {table.key_of(row): row for row in found}
    return contents


def checkpoint(url: str, name: str) -> dict[str, Any]:
    rows = query(url, "SELECT to_jsonb(p) FROM projections p WHERE name = %s", name)
    return dict(rows[0][0]) if rows else {}


def tables_left(url: str) -> list[str]:
    """Return the tables that rebuilds have left."""
    rows = query(url, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '__g[0-9]+$'")
    return [name for (name,) in rows]


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def is_at(url: str, model: ReadModel, position: int) -> Callable[[], bool]:
    return lambda: checkpoint(url, model.name).get("position") == position


@asynccontextmanager
async def projecting(url: str, *models: ReadModel, retry_s: float = 0.2) -> AsyncIterator[Projector]:
    projector = Projector(url, models, retry_s=retry_s, vault=vault())
    await projector.start()
    try:
        yield projector
    finally:
        await projector.stop()


def host(url: str, model: ReadModel, claim_s: float = follow._CLAIM_S) -> None:
    """Let the read model follow, and do nothing else: the life of a process."""
    follow._CLAIM_S = claim_s  # type: ignore[misc]
    asyncio.run(Projector(url, [model]).start())
    threading.Event().wait()
