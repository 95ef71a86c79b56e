"""Logs in memory, and folds of them that may read no row which their keys do not name."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from application.ports import LoggedEvent
from domain.conversation import Conversation
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.rows import Row as LogRow
from infrastructure.projections.read_model import ReadModel, Row, RowKey, Rows, Table
from tests.benchmarks.big_log import events_of
from tests.projecting import happened, woven
from tests.unit.commands import TASKS, Command, histories

MAPPER = MinutesMapper()
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)

logs = st.lists(histories(), min_size=1, max_size=3).map(
    lambda found: numbered(woven([happened(f"c{n}", history) for n, history in enumerate(found)]))
)


def numbered(events: Sequence[NewEvent]) -> list[LogRow]:
    """Number the events as the log would: an event every five hours, so that days change."""
    return [
        LogRow(
            n, e.stream, e.version, e.type, e.conversation, e.turn, e.actor,
            BEGAN + timedelta(hours=5 * n), e.data,
        )
        for n, e in enumerate(events, start=1)
    ]  # fmt: skip


def logged(log: Iterable[LogRow]) -> list[LoggedEvent]:
    return [MAPPER.to_logged(row) for row in log]


class OnlyDeclared(Rows):
    """Rows that let a fold see those that it has said it would read, and no others."""

    declared: frozenset[RowKey] = frozenset()

    def get(self, table: Table, *key: Any) -> Row | None:
        assert (table.name, key) in self.declared, f"{table.name} {key} was not among the keys"
        return super().get(table, *key)


def folded(model: ReadModel, events: Iterable[LoggedEvent]) -> dict[str, list[Row]]:
    """Fold the events and return the rows of each table."""
    rows = OnlyDeclared()
    for event in events:
        if event.type in model.types:
            rows.declared = frozenset(model.keys(event))
            model.fold(rows, event)
    found: dict[str, list[Row]] = {table.name: [] for table in model.tables}
    for (name, _), row in rows.changed.items():
        found[name].append(row)
    return found


def aggregates(log: Iterable[LogRow]) -> dict[str, Conversation]:
    """Return the conversations as the log makes them."""
    found: dict[str, Any] = {}
    for row in log:
        if row.stream.startswith("conversation-"):
            found[row.conversation] = MAPPER.to_event(row).mutate(found.get(row.conversation))
    return found


# A plan that is sent back and then carried out: chance seldom finds the way there.
PROPOSAL: Command = ("propose_plan", ("p1", "a file", [task.to_json() for task in TASKS], "architect"))
SENT_BACK: list[Command] = [PROPOSAL, ("decide_plan", ("p1", 1, "modify", "shorter"))]
CARRIED_OUT: list[Command] = [
    *SENT_BACK, PROPOSAL, ("decide_plan", ("p1", 2, "approve", None)),
    ("start_subtask", (TASKS[0],)), ("complete_subtask", ()), ("start_subtask", (TASKS[1],)),
]  # fmt: skip


def one(*history: Command) -> list[LogRow]:
    return numbered(happened("c1", history))


def of_type(events: Iterable[LoggedEvent], *types: str) -> list[LoggedEvent]:
    return [event for event in events if event.type.partition(".")[2] in types]


def recorded(conversations: Sequence[dict[str, Any]]) -> list[LogRow]:
    """Return a log of recorded conversations, all of them `ada`'s, woven into one another."""
    found = [
        [
            replace(MAPPER.to_new_event(event), conversation=f"c{number}")
            for event in events_of(one["messages"])
        ]
        for number, one in enumerate(conversations)
    ]
    return as_of(numbered(woven(found)), "ada")


def as_of(log: list[LogRow], person: str) -> list[LogRow]:
    """Return the log with its person called so."""
    return [replace(row, actor=f"user:{person}") if row.actor == "user" else row for row in log]
