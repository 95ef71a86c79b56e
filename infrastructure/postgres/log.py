"""The log, read."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from application.ports import LoggedEvent
from infrastructure.postgres.pool import Pool, store_errors

_COLUMNS = "position, stream, version, type, conversation, turn, actor, recorded_at, data"
_RANGE = f"SELECT {_COLUMNS} FROM log WHERE position BETWEEN %b AND %b ORDER BY position"
_BACKWARDS = f"SELECT {_COLUMNS} FROM log WHERE stream = %b AND version < %b ORDER BY version DESC LIMIT %b"
_NEWEST_VERSION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One event as it is stored, byte for byte."""

    position: int
    stream: str
    version: int
    type: str
    conversation: str
    turn: str
    actor: str
    recorded_at: datetime
    data: bytes


class PostgresLog:
    """Reads the log; every read is one statement on a connection held no longer than that.

    All methods raise `StoreUnavailableError` when the database does not answer.
    """

    def __init__(self, pool: Pool, decode: Callable[[Row], LoggedEvent]) -> None:
        self._pool = pool
        self._decode = decode

    async def read(self, first: int, last: int) -> Sequence[LoggedEvent]:
        """Return the events with positions from `first` to `last`, both included, in order."""
        return [self._decode(row) for row in await self.rows(first, last)]

    async def head(self) -> int:
        """Return the position of the newest event, 0 for an empty log."""
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute("SELECT position FROM log_head", prepare=True)
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def rows(self, first: int, last: int) -> Sequence[Row]:
        """Return the stored rows with positions from `first` to `last`, both included, in order."""
        return await self._fetch(_RANGE, (first, last))

    async def page_backwards(self, stream: str, before: int | None, size: int) -> Sequence[Row]:
        """Return up to `size` rows of the stream with versions below `before`, newest first."""
        return await self._fetch(_BACKWARDS, (stream, _NEWEST_VERSION if before is None else before, size))

    async def newest_first(
        self, stream: str, before: int | None = None, size: int = 100
    ) -> AsyncIterator[Row]:
        """Walk back through a stream, a page of `size` rows at a time."""
        while rows := await self.page_backwards(stream, before, size):
            for row in rows:
                yield row
            before = rows[-1].version

    async def _fetch(self, query: str, values: Sequence[object]) -> Sequence[Row]:
        async with store_errors(), self._pool.connection() as connection:
            cursor = connection.cursor(binary=True, row_factory=class_row(Row))
            await cursor.execute(query, values, prepare=True)
            return await cursor.fetchall()
