"""Loading conversations: those that are asked for together come in one round trip."""

from collections.abc import Sequence
from typing import Any, Final

from domain.agent import Agent
from domain.conversation import Conversation
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.together import Together

# The fields of a `Row`; a snapshot has no position and its state for data.
RawRow = tuple[Any, ...]

_LOAD: Final = """
    SELECT number, loaded.*
      FROM unnest(%s::text[], %s::text[], %s::int[])
           WITH ORDINALITY AS asked (conversation, agent, page, number)
     CROSS JOIN LATERAL load_conversation(asked.conversation, %s, asked.agent, %s, asked.page) AS loaded"""


class Loader:
    """Loads the events and snapshots of conversations. Raises `StoreUnavailableError`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loads: Together[tuple[str, str, int], list[RawRow]] = Together(self._load)

    async def load(self, conversation_stream: str, agent_stream: str, page: int) -> list[RawRow]:
        """Return both streams' rows behind their snapshots, and up to `page` of the conversation before."""
        return await self._loads.answer((conversation_stream, agent_stream, page))

    async def _load(self, asked: Sequence[tuple[str, str, int]]) -> Sequence[list[RawRow]]:
        columns = [list(column) for column in zip(*asked, strict=True)]
        versions = (Conversation.STATE_VERSION, Agent.STATE_VERSION)
        async with store_errors(), self._pool.connection() as connection:
            cursor = connection.cursor(binary=True)
            await cursor.execute(_LOAD, (*columns, *versions), prepare=True)
            rows = await cursor.fetchall()
        loaded: list[list[RawRow]] = [[] for _ in asked]
        for number, *row in rows:
            loaded[number - 1].append(tuple(row))
        return loaded
