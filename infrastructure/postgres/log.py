"""The log, read."""

from collections.abc import AsyncIterator, Sequence

from psycopg.rows import class_row

from application.ports import LoggedEvent
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.rows import Decode, Opening, Row, shown

_COLUMNS = "position, stream, version, type, conversation, turn, actor, recorded_at, data"
_RANGE = f"SELECT {_COLUMNS} FROM log WHERE position BETWEEN %b AND %b ORDER BY position"
_BACKWARDS = f"SELECT {_COLUMNS} FROM log WHERE stream = %b AND version < %b ORDER BY version DESC LIMIT %b"
_AFTER = f"SELECT {_COLUMNS} FROM log WHERE position > %b ORDER BY position LIMIT %b"
_AFTER_IN_CONVERSATION = (
    f"SELECT {_COLUMNS} FROM log WHERE conversation = %b AND position >> 12 >= %b::bigint >> 12"
    " AND position > %b ORDER BY position >> 12, position LIMIT %b"
)
_AFTER_OF_OWNER = (
    f"SELECT {_COLUMNS} FROM log WHERE position > %b AND position <= %b AND EXISTS (SELECT FROM log AS first"
    " WHERE first.stream = 'conversation-' || log.conversation AND first.version = 1 AND first.actor = %b)"
    " ORDER BY position LIMIT %b"
)
OWNER_WINDOW = 20_000  # positions searched at a time for somebody's own events
_OWNER = "SELECT actor FROM log WHERE stream = %s AND version = 1"
_NEWEST_VERSION = 2**31 - 1


class PostgresLog:
    """Reads the log; every read is one statement on a connection held no longer than that.

    All methods raise `StoreUnavailableError` when the database does not answer.
    """

    def __init__(self, pool: Pool, decode: Decode, keys: Opening | None = None) -> None:
        self._pool = pool
        self._decode = decode
        self._keys = keys

    async def read(self, first: int, last: int) -> Sequence[LoggedEvent]:
        """Return the events with positions from `first` to `last`, both included, in order."""
        return await shown(await self.rows(first, last), self._decode, self._keys)

    async def head(self) -> int:
        """Return the position of the newest event, 0 for an empty log."""
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute("SELECT position FROM log_head", prepare=True)
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def after(
        self, position: int, limit: int, *, conversation_id: str | None = None, owner: str | None = None
    ) -> tuple[Sequence[LoggedEvent], int | None]:
        """Return the next events after `position`, of one conversation or of one owner where given.

        With them comes how far the log was searched; None stands for its head.
        """
        window: int | None = None
        query: str = _AFTER
        values: tuple[object, ...] = (position, limit)
        if conversation_id is not None:
            # The index keeps positions in blocks (see 001_log.sql); the walk along it begins at ours.
            query, values = _AFTER_IN_CONVERSATION, (conversation_id, position, position, limit)
        elif owner is not None:
            window = position + OWNER_WINDOW
            query, values = _AFTER_OF_OWNER, (position, window, f"user:{owner}", limit)
            if window >= await self.head():
                window = None
        events = await shown(await self._fetch(query, values), self._decode, self._keys)
        return events, events[-1].position if len(events) == limit else window

    async def owner_of(self, conversation_id: str) -> str | None:
        """Return the subject a stored conversation belongs to, or None where there is none."""
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute(_OWNER, (f"conversation-{conversation_id}",), prepare=True)
            row = await cursor.fetchone()
        return str(row[0]).removeprefix("user:") if row else None

    async def rows(self, first: int, last: int) -> Sequence[Row]:
        """Return the stored rows from `first` to `last`, both included, in order, byte for byte."""
        return await self._fetch(_RANGE, (first, last))

    async def page_backwards(self, stream: str, before: int | None, size: int) -> Sequence[Row]:
        """Return up to `size` rows of the stream with versions below `before`, newest first."""
        newest = _NEWEST_VERSION if before is None else before
        return await self._opened(await self._fetch(_BACKWARDS, (stream, newest, size)))

    async def newest_first(
        self, stream: str, before: int | None = None, size: int = 100
    ) -> AsyncIterator[Row]:
        """Walk back through a stream, a page of `size` rows at a time."""
        while rows := await self.page_backwards(stream, before, size):
            for row in rows:
                yield row
            before = rows[-1].version

    async def _opened(self, rows: Sequence[Row]) -> Sequence[Row]:
        return await self._keys.opened(rows) if self._keys else rows

    async def _fetch(self, query: str, values: Sequence[object]) -> Sequence[Row]:
        async with store_errors(), self._pool.connection() as connection:
            cursor = connection.cursor(binary=True, row_factory=class_row(Row))
            await cursor.execute(query, values, prepare=True)
            return await cursor.fetchall()
