"""What running turns have said so far, kept where other processes can read it."""

import contextlib
import json
from collections.abc import Sequence
from typing import Final

import psycopg

from application.frames import Frame
from application.sharing import Chunk
from infrastructure.postgres.connections import arguments
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.vault import DataKey

CHUNKS_CHANNEL: Final = "minutebook_chunks"

# One statement: what is new, what is over, and the hint that there is something to read.
_KEEP: Final = f"""
    WITH kept AS (
        INSERT INTO chunks (node, turn, attempt, conversation, frames)
        SELECT %(node)s, c.turn, c.attempt, c.conversation, c.frames
          FROM unnest(%(turns)s::text[], %(attempts)s::int[], %(conversations)s::text[], %(frames)s::bytea[])
            AS c (turn, attempt, conversation, frames)),
    gone AS (DELETE FROM chunks WHERE turn = ANY(%(ended)s))
    SELECT pg_notify('{CHUNKS_CHANNEL}', '')"""
_READ: Final = """
    SELECT id, turn, attempt, conversation, frames FROM chunks
     WHERE node <> %(node)s AND id > %(after)s
       AND (turn = ANY(%(turns)s) OR conversation = ANY(%(conversations)s))
     ORDER BY id"""
# Those of a process that died are nobody's to clear; they are gone with the next server restart or here.
_FORGET: Final = "DELETE FROM chunks WHERE kept_at < clock_timestamp() - interval '1 hour'"
# Ids become visible out of order: reading begins a little before what was read last.
OVERLAP: Final = 500


class PostgresChunks:
    """One node's side of the shared chunks. Whatever goes wrong here costs provisional frames only."""

    def __init__(self, conninfo: str, pool: Pool, node: str, key: DataKey) -> None:
        self._conninfo = conninfo
        self._pool = pool
        self._node = node
        self._key = key
        self._connection: psycopg.AsyncConnection | None = None

    async def keep(self, chunks: Sequence[Chunk], ended: Sequence[str]) -> None:
        """Keep new chunks and forget those of turns that are over. Raises `StoreUnavailableError`."""
        values = {
            "node": self._node,
            "turns": [chunk.turn_id for chunk in chunks],
            "attempts": [chunk.attempt for chunk in chunks],
            "conversations": [chunk.conversation_id for chunk in chunks],
            "frames": [self._key.seal(_written(chunk.frames), _about(chunk.turn_id)) for chunk in chunks],
            "ended": list(ended),
        }
        try:
            async with store_errors():
                connection = await self._connected()
                await connection.execute(_KEEP, values, prepare=True)
        except BaseException:
            await self.close()
            raise

    async def read(
        self, turn_ids: Sequence[str], conversation_ids: Sequence[str], after: int
    ) -> tuple[list[Chunk], int]:
        """Return what other nodes' turns have said after a mark, and the next mark.

        A chunk may come twice; its frames' numbers tell. Raises `StoreUnavailableError`.
        """
        values = {
            "node": self._node,
            "after": after - OVERLAP,
            "turns": list(turn_ids),
            "conversations": list(conversation_ids),
        }
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute(_READ, values, prepare=True)
            rows = await cursor.fetchall()
        chunks = [
            Chunk(turn, attempt, where, _read(self._key.open(frames, _about(turn)), attempt))
            for _, turn, attempt, where, frames in rows
        ]
        return chunks, max([after, *(row[0] for row in rows)])

    async def forget_old(self) -> None:
        """Forget what processes that died have left. Raises `StoreUnavailableError`."""
        async with store_errors(), self._pool.connection() as connection:
            await connection.execute(_FORGET)

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._connection is None:
            settings = arguments("minutebook chunks", statement_timeout_s=5)
            settings["options"] += " -c synchronous_commit=off"  # nobody waits for provisional frames
            self._connection = await psycopg.AsyncConnection.connect(self._conninfo, **settings)
        return self._connection


def _about(turn_id: str) -> bytes:
    return f"chunk\n{turn_id}".encode()


def _written(frames: Sequence[Frame]) -> bytes:
    said = [[frame.type, frame.seq, frame.body] for frame in frames]
    return json.dumps(said, separators=(",", ":")).encode()


def _read(text: bytes, attempt: int) -> list[Frame]:
    return [Frame(type_, attempt, seq, body) for type_, seq, body in json.loads(text)]
