"""What running turns have said so far, kept where other processes can read it."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
import structlog

from application.frames import Frame
from application.sharing import Chunk, IsWanted, Mark
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
    gone AS (DELETE FROM chunks WHERE turn = ANY(%(ended)s) AND node = %(node)s)
    SELECT pg_notify('{CHUNKS_CHANNEL}', '')"""
_NEWEST: Final = "SELECT coalesce(max(id), 0) FROM chunks"
# After a crash the table is empty, and its ids begin anew below all that were read.
_READ: Final = f"""
    SELECT id, turn, attempt, conversation, frames FROM chunks
     WHERE id > least(%(newest)s::bigint, ({_NEWEST})) - %(overlap)s AND id <> ALL(%(near)s::bigint[])
       AND node <> %(node)s
     ORDER BY id"""
_OF: Final = """
    SELECT id, turn, attempt, conversation, frames FROM chunks
     WHERE node <> %(node)s AND (turn = ANY(%(turns)s) OR conversation = ANY(%(conversations)s))
     ORDER BY id"""
# Those of a process that died are nobody's to clear; they are gone with the next server restart or here.
_FORGET: Final = "DELETE FROM chunks WHERE kept_at < clock_timestamp() - interval '1 hour'"
# Ids become visible out of order: reading begins a little before what was read last.
OVERLAP: Final = 500

logger = structlog.get_logger("minutebook.chunks")


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
        try:
            async with store_errors():
                connection = await self._connected()  # first: without one nothing is sealed in vain
                await connection.execute(_KEEP, self._values(chunks, ended), prepare=True)
        except BaseException:
            await self.close()
            raise

    def _values(self, chunks: Sequence[Chunk], ended: Sequence[str]) -> dict[str, Any]:
        return {
            "node": self._node,
            "turns": [chunk.turn_id for chunk in chunks],
            "attempts": [chunk.attempt for chunk in chunks],
            "conversations": [chunk.conversation_id for chunk in chunks],
            "frames": [self._key.seal(_written(chunk.frames), _about(chunk.turn_id)) for chunk in chunks],
            "ended": list(ended),
        }

    async def mark(self) -> Mark:
        """Return where that begins which is kept from now on. Raises `StoreUnavailableError`."""
        return Mark((await self._rows(_NEWEST, {}))[0][0])

    async def read(self, mark: Mark, is_wanted: IsWanted) -> tuple[list[Chunk], Mark]:
        """Return what is wanted of that which other nodes have kept since a mark, and the next mark.

        What nobody wants is neither opened nor parsed. Raises `StoreUnavailableError`.
        """
        about = {"newest": mark.newest, "near": list(mark.near), "overlap": OVERLAP, "node": self._node}
        rows = await self._rows(_READ, about)
        newest = rows[-1][0] if rows else mark.newest
        near = mark.near.union(row[0] for row in rows)
        wanted = self._opened([row for row in rows if is_wanted(row[1], row[3])])
        return wanted, Mark(newest, frozenset(one for one in near if one > newest - OVERLAP))

    async def of(self, turn_ids: Iterable[str], conversation_ids: Iterable[str]) -> list[Chunk]:
        """Return all chunks that other nodes have kept of these turns and conversations, in order.

        Raises `StoreUnavailableError`.
        """
        about = {"node": self._node, "turns": list(turn_ids), "conversations": list(conversation_ids)}
        return self._opened(await self._rows(_OF, about))

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

    async def _rows(self, query: LiteralString, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute(query, values, prepare=True)
            return await cursor.fetchall()

    def _opened(self, rows: Sequence[tuple[Any, ...]]) -> list[Chunk]:
        return [chunk for row in rows if (chunk := self._chunk(*row))]

    def _chunk(self, number: int, turn: str, attempt: int, where: str, frames: bytes) -> Chunk | None:
        try:
            return Chunk(turn, attempt, where, _read(self._key.open(frames, _about(turn)), attempt))
        except Exception:  # of a node with other keys or of another version: it costs its words only
            logger.exception("chunk_unreadable", chunk=number, turn=turn)
            return None

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
