"""What is selected, as SQL; and the log read for it, as a stream of COPY or a page at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, cast

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from application.exporting import ExportError, Selection
from infrastructure.postgres.connections import arguments
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.rows import Row

_COLUMNS: Final = sql.SQL("position, stream, version, type, conversation, turn, actor, recorded_at, data")
TYPES: Final = ("int8", "text", "int4", "text", "text", "text", "text", "timestamptz", "bytea")
WINDOW: Final = 20_000  # positions looked through at a time
_SOME: Final = 1_000  # rows given together, of big ones fewer
_SOME_BYTES: Final = 4 * 1024 * 1024
_COPY: Final = sql.SQL(
    "COPY (SELECT {columns} FROM log WHERE {wanted} ORDER BY position) TO STDOUT (FORMAT binary)"
)
# At most so many events, and of big ones only as many as it takes to pass so many bytes.
_PAGE: Final = sql.SQL("""
    SELECT {columns} FROM (
        SELECT {columns}, sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS before
          FROM (SELECT {columns} FROM log WHERE {wanted} ORDER BY position LIMIT {limit}) AS taken
    ) AS sized WHERE before < {most} ORDER BY position""")
RECEIPT: Final = "conversation.erased"
_ERASED: Final = """
    SELECT conversation FROM log AS receipt
     WHERE type = %(type)s AND position >> 12 >= %(head)s::bigint >> 12 AND position > %(head)s
       AND EXISTS (SELECT FROM log WHERE conversation = receipt.conversation
                      AND position BETWEEN %(first)s AND %(last)s)
     LIMIT 1"""
_AT: Final = "SELECT recorded_at FROM log WHERE position = %s"


def wanted(selection: Selection, after: int, last: int) -> sql.Composed:
    """Return the condition for the selected events above one position and up to another."""
    parts = [sql.SQL("position > {} AND position <= {}").format(after, last)]
    if selection.conversation is not None:
        # Its index keeps positions in blocks (see 001_log.sql); the walk along it begins at ours.
        parts.append(
            sql.SQL("conversation = {} AND position >> 12 >= {}::bigint >> 12").format(
                selection.conversation, after
            )
        )
    if selection.types:
        parts.append(sql.SQL("type = ANY ({}::text[])").format(list(selection.types)))
    return sql.SQL(" AND ").join(parts)


def window_after(selection: Selection, after: int, last: int) -> int:
    """Return how far to look in one go: a conversation is found by its index, all else in windows."""
    return last if selection.conversation is not None else min(after + WINDOW, last)


# --- the range ------------------------------------------------------------------------------------


def settled_now(url: str, selection: Selection) -> Selection:
    """Return the selection as `settled` does, where no event loop runs.

    Raises `ExportError` and `psycopg.Error`.
    """

    async def ask() -> Selection:
        connecting = psycopg.AsyncConnection.connect(url, **arguments("minutebook export", 0))
        async with await connecting as connection:
            return await settled(connection, selection)

    return asyncio.run(ask())


async def settled(connection: psycopg.AsyncConnection[Any], selection: Selection) -> Selection:
    """Return the selection with its times turned into positions and its end fixed: it never grows.

    Raises `ExportError` for a range that goes backwards or beyond the newest event.
    """
    head = await _one(connection, "SELECT position FROM log_head") or 0
    if selection.last is not None and selection.last > head:
        raise ExportError(reason=f"position {selection.last} is beyond the newest event, {head}")
    first, last = max(selection.first, 1), head if selection.last is None else selection.last
    if selection.since is not None:
        first = max(first, await _first_from(connection, selection.since, head))
    if selection.before is not None:
        last = min(last, await _first_from(connection, selection.before, head) - 1)
    if first > last + 1:
        raise ExportError(reason=f"nothing lies between position {first} and {last}")
    return replace(selection, first=first, last=last, since=None, before=None)


async def _first_from(connection: psycopg.AsyncConnection[Any], moment: datetime, head: int) -> int:
    """Return the first position recorded at the moment or later; times never go back along the log."""
    low, high = 1, head + 1
    while low < high:
        middle = (low + high) // 2
        recorded_at = await _one(connection, _AT, middle)
        if recorded_at is not None and recorded_at < moment:
            low = middle + 1
        else:
            high = middle
    return low


async def _one(connection: psycopg.AsyncConnection[Any], query: str, *values: object) -> Any:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    return row[0] if row else None


def head_now(connection: psycopg.Connection) -> int:
    """Return the newest position, 0 for an empty log."""
    row = connection.execute("SELECT position FROM log_head").fetchone()
    return row[0] if row else 0


def erased_since(connection: psycopg.Connection, selection: Selection, head: int) -> str | None:
    """Return a conversation of which something is selected and that was erased after this position."""
    row = connection.execute(
        _ERASED, {"head": head, "first": selection.first, "last": selection.last, "type": RECEIPT}
    ).fetchone()
    return row[0] if row else None


# --- reading --------------------------------------------------------------------------------------


def stream(
    connection: psycopg.Connection, selection: Selection, after: int, last: int
) -> Iterator[list[Row]]:
    """Stream the selected events above `after` and up to `last`, some at a time, in constant memory."""
    statement = _COPY.format(columns=_COLUMNS, wanted=wanted(selection, after, last))
    some: list[Row] = []
    size = 0
    with connection.cursor().copy(statement) as copy:
        copy.set_types(TYPES)
        for values in copy.rows():
            row = Row(*values)
            some.append(row)
            size += len(row.data)
            if len(some) == _SOME or size >= _SOME_BYTES:
                yield some
                some, size = [], 0
    if some:
        yield some


async def pages(pool: Pool, selection: Selection) -> AsyncIterator[Sequence[Row]]:
    """Read the selected events a page at a time; between two pages no connection is held.

    Raises `StoreUnavailableError`.
    """
    after, last = selection.first - 1, cast("int", selection.last)
    while after < last:
        until = window_after(selection, after, last)
        statement = _PAGE.format(
            columns=_COLUMNS, wanted=wanted(selection, after, until), limit=_SOME, most=_SOME_BYTES
        )
        async with store_errors(), pool.connection() as connection:
            cursor = connection.cursor(binary=True, row_factory=class_row(Row))
            await cursor.execute(statement)
            rows = await cursor.fetchall()
        after = rows[-1].position if rows else until
        if rows:
            yield rows
