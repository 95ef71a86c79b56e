"""The log, searched: whatever the filters, a page is a short walk along one index."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from application.audit import EventFilter, EventPage
from application.audit_questions import RequestFilter
from application.errors import TurnNotFoundError
from application.ports import LoggedEvent, TurnRow
from application.queries import Answer
from infrastructure.postgres.audit_walk import Bounds, Walk, walk_of
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.rows import Decode, Opening, Row, shown
from infrastructure.postgres.turns import PostgresTurns
from infrastructure.vault import DataKey

LOOK_S: Final = 0.02  # so long one page looks, and then says how far it got
# A filter by text decodes what the other filters leave, so many at a time.
_TEXT_CHUNK: Final = 100
_PAGE_BYTES: Final = 4 * 1024 * 1024

_COLUMNS: Final = "position, stream, version, type, conversation, turn, actor, recorded_at, data"
_FETCH: Final = f"""
    SELECT {_COLUMNS} FROM (
        SELECT {_COLUMNS},
               sum(octet_length(data)) OVER (ORDER BY position {{order}}) - octet_length(data) AS size
          FROM log WHERE position = ANY(%(positions)s)) AS sized
     WHERE size < {_PAGE_BYTES} ORDER BY position {{order}}"""
# How many events were recorded before a time: times follow positions, so half of what is left is
# ruled out by each look.
_COUNT_BEFORE: Final = """
    (WITH RECURSIVE search (low, high) AS (
        SELECT 0::bigint, (SELECT position FROM log_head)
         UNION ALL
        SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle - 1 END
          FROM search
         CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS middle) AS m
         CROSS JOIN LATERAL (SELECT coalesce((
            SELECT recorded_at {than} %(at)s::timestamptz FROM log WHERE position <= middle
             ORDER BY position DESC LIMIT 1), true) AS is_before) AS b
         WHERE low < high)
    SELECT low FROM search WHERE low = high)"""
_POSITION: Final = "SELECT position FROM projections WHERE name = 'requests'"
# Every look is by an index, however small a table still is or whatever is known of it.
_BY_INDEX: Final = """
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off;
    SET LOCAL enable_mergejoin = off; SET LOCAL enable_material = off; SET LOCAL enable_sort = off;
    SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off"""


class PostgresAudit:
    """The log of PostgreSQL as an auditor asks it; every page reads a bounded number of rows.

    Whatever is shown was decoded by the one `decode`. All methods raise `StoreUnavailableError`.
    """

    def __init__(
        self,
        pool: Pool,
        decode: Decode,
        keys: Opening,
        payloads: DataKey | None = None,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._decode = decode
        self.turns = PostgresTurns(pool, "", 0, payloads)

    async def page(self, wanted: EventFilter, limit: int) -> Answer[EventPage]:
        """Return at most `limit` events. Raises `TurnNotFoundError`."""
        deadline = time.monotonic() + LOOK_S
        async with self.by_index() as connection:
            bounds = await self.bounds(connection, wanted)
            walk = await walk_of(connection, wanted, bounds)
            search = self._search if wanted.is_by_content else self._found
            page = await search(connection, walk, wanted, limit, deadline)
            return Answer(bounds.head, page)

    async def head(self) -> int:
        """Return the position of the newest event, 0 for an empty log."""
        async with self.by_index() as connection:
            return await _head(connection, EventFilter())

    async def events(self, positions: Sequence[int]) -> Mapping[int, LoggedEvent]:
        """Return the events at these positions, however large they are."""
        found: dict[int, LoggedEvent] = {}
        wanted = sorted(set(positions))
        while wanted:
            async with self.by_index() as connection:
                rows = await _rows(connection, wanted, newest_first=False)
            found |= {one.position: one for one in await shown(rows, self._decode, self._keys)}
            wanted = [position for position in wanted if rows and position > rows[-1].position]
        return found

    async def turn(self, turn_id: str) -> TurnRow | None:
        """Return a turn, whosever it is, or None."""
        rows = await self.turns.rows([turn_id])
        return rows[0] if rows else None

    async def before(self, at: datetime) -> int:
        """Return the position of the newest event recorded at or before this time, 0 for none."""
        async with self.by_index() as connection:
            return await _count(connection, "<=", at)

    # --- where to look ---------------------------------------------------------------------------

    @asynccontextmanager
    async def by_index(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Give a connection that looks everything up by an index, whatever it knows of the tables."""
        async with store_errors(), self._pool.connection() as connection, connection.transaction():
            await connection.execute(_BY_INDEX.encode())
            yield connection

    async def bounds(self, connection: AsyncConnection[Any], wanted: EventFilter | RequestFilter) -> Bounds:
        """Return between which positions to look, for times, positions and the turn of a filter."""
        low, high = (wanted.after or 0) + 1, await _head(connection, wanted)
        head = high
        if wanted.since:
            low = max(low, await _count(connection, "<", wanted.since) + 1)
        if wanted.until:
            high = min(high, await _count(connection, "<", wanted.until))
        if isinstance(wanted, RequestFilter):
            return Bounds(low, high, head)
        if wanted.before is not None:
            high = min(high, wanted.before - 1)
        return await _of_turn(connection, wanted, Bounds(low, high, head))

    # --- what is there ---------------------------------------------------------------------------

    async def _found(
        self, connection: AsyncConnection[Any], walk: Walk, wanted: EventFilter, limit: int, deadline: float
    ) -> EventPage:
        steps = await walk.steps(connection, limit, deadline)
        rows = await _rows(connection, steps.positions, wanted.newest_first)
        cut = len(rows) < len(steps.positions)  # they are large: the rest comes with the next page
        events = await shown(rows, self._decode, self._keys)
        return EventPage(events, rows[-1].position if cut else steps.next)

    async def _search(
        self, connection: AsyncConnection[Any], walk: Walk, wanted: EventFilter, limit: int, deadline: float
    ) -> EventPage:
        found: list[LoggedEvent] = []
        while True:
            page = await self._found(connection, walk, wanted, _TEXT_CHUNK, deadline)
            for event in page.events:
                if wanted.fits(event.data):
                    found.append(event)
                    if len(found) == limit:
                        return EventPage(found, event.position)
            if page.next is None or time.monotonic() >= deadline:
                return EventPage(found, page.next)
            walk = walk.behind(page.next)


async def _head(connection: AsyncConnection[Any], wanted: EventFilter | RequestFilter) -> int:
    """Return how far can be looked: for tools and requests, as far as their read model has got."""
    of_log = isinstance(wanted, EventFilter) and wanted.tool is None
    query = "SELECT position FROM log_head" if of_log else _POSITION
    row = await (await connection.execute(query.encode())).fetchone()
    return int(row[0]) if row else 0


async def _count(connection: AsyncConnection[Any], than: str, at: datetime) -> int:
    query = f"SELECT {_COUNT_BEFORE.format(than=than)}"
    row = await (await connection.execute(query.encode(), {"at": at})).fetchone()
    return int(row[0]) if row else 0


async def _of_turn(connection: AsyncConnection[Any], wanted: EventFilter, bounds: Bounds) -> Bounds:
    """Narrow the bounds to where a turn's events stand."""
    if wanted.turn is None or wanted.conversation is not None:
        return bounds
    query = "SELECT first_position, last_position, conversation FROM turns WHERE id = %s"
    row = await (await connection.execute(query, [wanted.turn])).fetchone()
    if row is None:
        imported = wanted.turn.removeprefix("import-")  # whoever imports runs no turn
        if imported == wanted.turn:
            raise TurnNotFoundError
        return replace(bounds, conversation=imported)
    if row[0] is None:
        return replace(bounds, high=0)
    return replace(bounds, low=max(bounds.low, row[0]), high=min(bounds.high, row[1]))


async def _rows(connection: AsyncConnection[Any], positions: Sequence[int], newest_first: bool) -> list[Row]:
    if not positions:
        return []
    query = _FETCH.format(order="DESC" if newest_first else "ASC")
    cursor = connection.cursor(binary=True, row_factory=class_row(Row))
    await cursor.execute(query.encode(), {"positions": list(positions)}, prepare=False)
    return await cursor.fetchall()
