"""What the models were asked and what it took: one row for each conversation, day, agent and model."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any, ClassVar, Final

from application.ports import LoggedEvent
from application.queries import Answer, Page, Usage, UsageFilter, UsageGroup, page_of
from infrastructure.postgres.pool import Pool
from infrastructure.projections.asking import Asker, conditions
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.values import owner_of, plain_text

OWNERS: Final = Table(
    name="read_usage_owners", columns={"conversation": "text", "owner": "text"}, key=("conversation",)
)
USAGE: Final = Table(
    name="read_usage",
    columns={
        "conversation": "text",
        "day": "text",  # YYYY-MM-DD in UTC
        "agent": "text",
        "model": "text",
        "owner": "text",
        "calls": "bigint",
        "input_tokens": "bigint",
        "output_tokens": "bigint",
        "duration_ms": "bigint",
    },
    key=("conversation", "day", "agent", "model"),
    indexes=("(owner, day)", "(day)"),
)
_COUNTED: Final = ("input_tokens", "output_tokens", "duration_ms")


class UsageByDay:
    """Every model call is counted once; the day is that of the commit, in UTC."""

    name: ClassVar[str] = "usage"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (OWNERS, USAGE)
    types: ClassVar[frozenset[str]] = frozenset({"conversation.started", "agent.model_called"})

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the row that knows the owner, and the one that counts this call."""
        if event.type == "agent.model_called":
            yield OWNERS.name, (event.conversation_id,)
            yield USAGE.name, _key(event)

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Note the owner, or count the call."""
        if event.type == "conversation.started":
            rows.put(OWNERS, {"conversation": event.conversation_id, "owner": owner_of(event.actor)})
        elif event.type == "agent.model_called":
            row = rows.get(USAGE, *_key(event)) or _new_row(rows, event)
            counted = {name: row[name] + event.data[name] for name in _COUNTED}
            rows.put(USAGE, {**row, **counted, "calls": row["calls"] + 1})


def _key(event: LoggedEvent) -> tuple[str, str, str, str]:
    day = event.recorded_at.astimezone(UTC).date().isoformat()
    return event.conversation_id, day, plain_text(event.data["agent"]), plain_text(event.data["model"])


def _new_row(rows: Rows, event: LoggedEvent) -> Row:
    owner = rows.get(OWNERS, event.conversation_id)
    row: Row = dict(zip(USAGE.key, _key(event), strict=True))
    row["owner"] = owner["owner"] if owner else ""
    return row | dict.fromkeys(("calls", *_COUNTED), 0)


# --- queries ---------------------------------------------------------------------------------------

_CLAUSES: Final = {
    "owner": "owner = %(owner)s",
    "from_day": "day >= %(from_day)s",
    "to_day": "day <= %(to_day)s",
    "agent": "agent = %(agent)s",
    "model": "model = %(model)s",
    "conversation": "conversation = %(conversation)s",
}
_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in ("calls", *_COUNTED))


class PostgresUsage:
    """The usage, asked in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._asker = Asker(pool, UsageByDay.name)

    async def page(
        self, by: Sequence[UsageGroup], wanted: UsageFilter, after: Sequence[str] | None, limit: int
    ) -> Answer[Page[Usage]]:
        """Return the groups behind `after` in the order of their names, in bytes."""
        given: dict[str, Any] = {name: getattr(wanted, name) for name in _CLAUSES}
        clauses = conditions(given, _CLAUSES)
        names = ", ".join(f'{name} COLLATE "C" AS {name}' for name in by)
        ordered = ", ".join(f'{name} COLLATE "C"' for name in by)
        if by and after is not None:
            given |= {f"after_{name}": value for name, value in zip(by, after, strict=True)}
            clauses += f" AND ({ordered}) > ({', '.join(f'%(after_{name})s' for name in by)})"
        grouped = f"GROUP BY {ordered} ORDER BY {ordered}" if by else "HAVING count(*) > 0"
        query = f"""
            SELECT {names}{"," if by else ""} {_SUMS} FROM {USAGE.name}
             WHERE {clauses} {grouped} LIMIT %(limit)s"""
        order = ", ".join(f'{name} COLLATE "C"' for name in by) or "calls"
        found = await self._asker.ask(query, order.replace(", ", ", answer."), {**given, "limit": limit + 1})
        return Answer(found.position, page_of([_usage(row, by) for row in found.rows], limit))


def _usage(row: Mapping[str, Any], by: Sequence[UsageGroup]) -> Usage:
    sums = {name: row[name] for name in ("calls", *_COUNTED)}
    return Usage({name: row[name] for name in by}, **sums)
