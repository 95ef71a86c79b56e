"""Conversations as they were: both aggregates and the transcript's own fold, replayed up to a position."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from psycopg.rows import class_row

from application.past import Past, past_of
from application.queries import Entry
from domain.aggregate import SignedAggregate
from domain.errors import ConversationErasedError
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.rows import Opening, Row
from infrastructure.projections.read_model import Rows
from infrastructure.projections.transcript import ENTRIES, Transcript
from infrastructure.projections.transcript_queries import entry_of
from infrastructure.vault import ERASED_DATA

PAGE: Final = 100
_PAGE: Final = """
    SELECT position, stream, version, type, conversation, turn, actor, recorded_at, data FROM log
     WHERE conversation = %(conversation)s AND position > %(after)s AND position <= %(last)s
       AND position >> 12 BETWEEN %(after)s::bigint >> 12 AND %(last)s::bigint >> 12
     ORDER BY position >> 12, position LIMIT %(page)s"""


class PostgresPast:
    """Replays one conversation from its beginning, a page at a time: its cost is that of its length."""

    def __init__(self, pool: Pool, mapper: MinutesMapper, keys: Opening | None = None) -> None:
        self._pool = pool
        self._mapper = mapper
        self._keys = keys

    async def as_of(self, conversation_id: str, position: int) -> Past | None:
        """Return the conversation as of this position, None where it had not begun by then.

        Raises `ConversationErasedError` and `StoreUnavailableError`.
        """
        aggregates: dict[str, Any] = {}
        rows, transcript, events, newest = Rows(), Transcript(), 0, 0
        async for row in self._rows(conversation_id, position):
            events, newest = events + 1, row.position
            aggregates[row.stream] = self._mutated(aggregates.get(row.stream), row)
            if row.type in transcript.types:
                transcript.fold(rows, self._mapper.to_logged(row))
        conversation = aggregates.get(f"conversation-{conversation_id}")
        if conversation is None:
            return None
        agent = aggregates.get(f"agent-{conversation_id}")
        return past_of(newest, conversation, agent, events, _entries(rows))

    def _mutated(self, aggregate: SignedAggregate | None, row: Row) -> Any:
        return self._mapper.to_event(row).mutate(aggregate)

    async def _rows(self, conversation_id: str, last: int) -> AsyncIterator[Row]:
        after = 0
        while True:
            given = {"conversation": conversation_id, "after": after, "last": last, "page": PAGE}
            async with store_errors(), self._pool.connection() as connection:
                cursor = connection.cursor(binary=True, row_factory=class_row(Row))
                await cursor.execute(_PAGE, given, prepare=False)
                rows = await cursor.fetchall()
            for row in await self._keys.opened(rows) if self._keys else rows:
                if row.data == ERASED_DATA:
                    raise ConversationErasedError
                yield row
            if len(rows) < PAGE:
                return
            after = rows[-1].position
            await asyncio.sleep(0)  # others have their turn, however long the conversation is


def _entries(rows: Rows) -> list[Entry]:
    entries = [row for (table, _), row in rows.changed.items() if table == ENTRIES.name]
    return [entry_of(row) for row in sorted(entries, key=lambda row: int(row["position"]))]
