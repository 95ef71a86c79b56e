"""The auditor's questions, asked of the read model of requests and of the turns' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from application.audit_questions import Request, RequestFilter, Some
from application.ports import TurnRow
from application.queries import Answer, Page, page_of
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.turns import PLAIN

WINDOW: Final = 1_000  # decisions that one page looks at, at most

_NAMES: Final = [field.name for field in fields(Request)]
_R: Final = ", ".join(f"r.{name}" for name in _NAMES)
_N: Final = ", ".join(f"n.{name} AS again_{name}" for name in _NAMES)
_CLAUSES: Final = {
    "conversation": "r.conversation = %(conversation)s",
    "tool": "r.tool = %(tool)s",
    "decision": "r.decision = %(decision)s",
    "actor": "(SELECT l.actor FROM log AS l WHERE l.position = r.decided) = %(actor)s",
}
# As in a walk along the log: the last row that may be looked at comes in any case, and says how far it got.
_DECIDED: Final = f"""
    SELECT {_R}, r.is_wanted, r.nth FROM (
        SELECT r.*, {{wanted}} AS is_wanted, row_number() OVER (ORDER BY r.decided) AS nth
          FROM read_requests AS r WHERE r.decided > %(after)s AND r.decided <= %(last)s {{narrow}}
         ORDER BY r.decided LIMIT {WINDOW}) AS r
     WHERE r.is_wanted OR r.nth = {WINDOW} ORDER BY r.decided LIMIT %(limit)s"""
_RETRIED: Final = f"""
    SELECT {_R}, {_N}, r.nth FROM (
        SELECT r.*, row_number() OVER (ORDER BY r.decided) AS nth FROM read_requests AS r
         WHERE r.decision = 'reject' AND r.kind = 'call' AND r.decided > %(after)s AND r.decided <= %(last)s
           AND {{wanted}} ORDER BY r.decided LIMIT {WINDOW}) AS r
      LEFT JOIN LATERAL (
        SELECT n.* FROM read_requests AS n
         WHERE n.conversation = r.conversation AND n.tool = r.tool AND n.requested > r.decided
         ORDER BY n.requested LIMIT 1) AS n ON true
     WHERE n.id IS NOT NULL OR r.nth = {WINDOW} ORDER BY r.decided LIMIT %(limit)s"""
_BADLY: Final = f"""
    SELECT {PLAIN} FROM turns WHERE state = %(state)s AND state IN ('failed', 'abandoned')
       AND accepted_at < coalesce(%(before)s::timestamptz, 'infinity')
     ORDER BY accepted_at DESC LIMIT %(limit)s"""
_RUNNING: Final = f"""
    SELECT {PLAIN} FROM turns
     WHERE accepted_at BETWEEN %(at)s::timestamptz - interval '24 hours' AND %(at)s::timestamptz
       AND coalesce(ended_at, 'infinity') > %(at)s::timestamptz
       AND accepted_at < coalesce(%(before)s::timestamptz, 'infinity')
     ORDER BY accepted_at DESC LIMIT %(limit)s"""


class PostgresQuestions:
    """Answers in positions; contents are read from the log. All methods raise `StoreUnavailableError`."""

    def __init__(self, pool: Pool, audit: PostgresAudit) -> None:
        self._pool = pool
        self._audit = audit
        self._turns = audit.turns

    async def decided(self, wanted: RequestFilter, limit: int) -> Answer[Some]:
        """Return what was decided, in the order of the decisions."""
        given = _given(wanted)
        clauses = [_CLAUSES[name] for name in given]
        narrow = "AND r.decision = 'reject'" if wanted.decision == "reject" else ""
        query = _DECIDED.format(wanted=" AND ".join(clauses) or "true", narrow=narrow)
        known, rows = await self._ask(query, wanted, given, limit)
        items = [Request(*row[: len(_NAMES)]) for row in rows if row[-2]]
        return Answer(known, _some(items[:limit], [one.decided or 0 for one in items], rows, limit))

    async def retried(self, wanted: RequestFilter, limit: int) -> Answer[Some]:
        """Return pairs: a rejected call, and the next call of the same tool in the same conversation."""
        given = {name: value for name, value in _given(wanted).items() if name != "decision"}
        query = _RETRIED.format(wanted=" AND ".join(_CLAUSES[name] for name in given) or "true")
        known, rows = await self._ask(query, wanted, given, limit)
        size = len(_NAMES)
        items = [
            (Request(*row[:size]), Request(*row[size : 2 * size])) for row in rows if row[size] is not None
        ]
        return Answer(known, _some(items[:limit], [one[0].decided or 0 for one in items], rows, limit))

    async def ended_badly(self, state: str, before: datetime | None, limit: int) -> Page[TurnRow]:
        """Return the turns that are failed or abandoned, accepted before this time, newest first."""
        return await self._rows(_BADLY, {"state": state, "before": before}, limit)

    async def running(self, at: datetime, before: datetime | None, limit: int) -> Page[TurnRow]:
        """Return the turns that ran at this time, of those accepted in the 24 hours before it."""
        return await self._rows(_RUNNING, {"at": at, "before": before}, limit)

    async def _rows(self, query: str, given: Mapping[str, Any], limit: int) -> Page[TurnRow]:
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute(query.encode(), {**given, "limit": limit + 1}, prepare=False)
            rows = await cursor.fetchall()
        return page_of([self._turns.turn_of(row) for row in rows], limit)

    async def _ask(
        self, query: str, wanted: RequestFilter, given: Mapping[str, Any], limit: int
    ) -> tuple[int, list[Any]]:
        async with self._audit.by_index() as connection:
            bounds = await self._audit.bounds(connection, wanted)
            values = {**given, "after": bounds.low - 1, "last": bounds.high, "limit": limit + 1}
            cursor = await connection.execute(query.encode(), values, prepare=False)
            return bounds.head, await cursor.fetchall()


def _given(wanted: RequestFilter) -> dict[str, Any]:
    values = {name: getattr(wanted, name) for name in _CLAUSES}
    return {name: value for name, value in values.items() if value is not None}


def _some(items: Sequence[Any], decided: Sequence[int], rows: Sequence[Any], limit: int) -> Some:
    """Return the page; what was walked past without finding anything is not walked past again."""
    if len(decided) > limit:
        return Some(items, decided[limit - 1])
    ended_early = bool(rows) and rows[-1][-1] == WINDOW
    return Some(items, rows[-1][_NAMES.index("decided")] if ended_early else None)
