"""Checkpoints and proofs out of the stored tree: a handful of tiles each, and never the log."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import class_row

from application.errors import InvalidFilterError, NotSealedError
from application.queries import Page, page_of
from application.sealing import ConsistencyProof, InclusionProof, SealedCheckpoint
from infrastructure.audit.merkle import (
    HASH_BYTES,
    TILE,
    TILE_LEVELS,
    Node,
    consistency_path,
    inclusion_path,
    root_of,
    split,
    subroot,
)
from infrastructure.audit.seal_store import unfinished
from infrastructure.postgres.pool import Pool, store_errors

_COLUMNS: Final = "number, size, recorded_at, note"
_NOTHING: Final = bytes(HASH_BYTES)
Connection = AsyncConnection[Any]
Place = tuple[int, int]  # a tile's level and index
T = TypeVar("T")


class PostgresSeals:
    """Answers from the tables of the sealer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def newest(self) -> SealedCheckpoint:
        """Return the newest checkpoint. Raises `NotSealedError` where there is none."""
        async with store_errors(), self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(SealedCheckpoint))
            await cursor.execute(
                f"SELECT {_COLUMNS} FROM seal_checkpoints ORDER BY number DESC LIMIT 1".encode()
            )
            found = await cursor.fetchone()
        if found is None:
            raise NotSealedError(what="Nothing", size=0)
        return found

    async def page(self, after: int, limit: int) -> Page[SealedCheckpoint]:
        """Return the checkpoints with a number above `after`, oldest first."""
        async with store_errors(), self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(SealedCheckpoint))
            await cursor.execute(
                f"SELECT {_COLUMNS} FROM seal_checkpoints WHERE number > %s"
                " ORDER BY number LIMIT %s".encode(),
                [after, limit + 1],
            )
            return page_of(await cursor.fetchall(), limit)

    async def inclusion(self, position: int, size: int | None) -> InclusionProof:
        """Prove that an event is in the log of `size` events."""
        async with store_errors(), self._pool.connection() as connection:
            sealed = await _sealed(connection)
            size = sealed if size is None else size
            _need(f"Position {position}", position, sealed)
            _need(f"The size {size}", size, sealed)
            if position > size:
                raise InvalidFilterError(
                    name="position", reason=f"{position} is not in a log of {size} events"
                )

            def prove(node: Node) -> InclusionProof:
                index = position - 1
                path = inclusion_path(node, index, size)
                return InclusionProof(position, index, size, node(0, index), subroot(node, 0, size), path)

            return await _proven(connection, sealed, prove)

    async def consistency(self, old: int, new: int | None) -> ConsistencyProof:
        """Prove that a size of the log is the beginning of another."""
        async with store_errors(), self._pool.connection() as connection:
            sealed = await _sealed(connection)
            new = sealed if new is None else new
            _need(f"The size {max(old, new)}", max(old, new), sealed)
            if old > new:
                raise InvalidFilterError(name="from", reason=f"{old} events are no beginning of {new}")

            def prove(node: Node) -> ConsistencyProof:
                roots = subroot(node, 0, old), subroot(node, 0, new)
                return ConsistencyProof(old, new, *roots, consistency_path(node, old, new))

            return await _proven(connection, sealed, prove)


async def _sealed(connection: Connection) -> int:
    cursor = await connection.execute("SELECT coalesce(max(size), 0) FROM seal_checkpoints")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


def _need(what: str, wanted: int, sealed: int) -> None:
    if wanted > sealed:
        raise NotSealedError(what=what, size=sealed)


async def _proven(connection: Connection, sealed: int, prove: Callable[[Node], T]) -> T:
    """Let it be proven twice: to see which nodes it asks for, and with them."""
    asked: set[Place] = set()

    def note(level: int, index: int) -> bytes:
        asked.add(_place(level, index))
        return _NOTHING

    prove(note)
    tiles = {place: await _hashes(connection, sealed, *place) for place in sorted(asked)}
    return prove(lambda level, index: _node(tiles, level, index))


def _place(level: int, index: int) -> Place:
    return level // TILE_LEVELS, index >> (TILE_LEVELS - level % TILE_LEVELS)


def _node(tiles: Mapping[Place, bytes], level: int, index: int) -> bytes:
    width = 1 << level % TILE_LEVELS
    first = index * width % TILE
    return root_of(split(tiles[_place(level, index)][first * HASH_BYTES : (first + width) * HASH_BYTES]))


async def _hashes(connection: Connection, sealed: int, level: int, index: int) -> bytes:
    """Return the hashes of a tile; of one that is not full yet, those that are there."""
    cursor = await connection.execute(
        "SELECT hashes FROM seal_tiles WHERE level = %s AND index = %s", [level, index], binary=True
    )
    if row := await cursor.fetchone():
        return bytes(row[0])
    first = index * TILE
    if level:
        cursor = await connection.execute(
            "SELECT root FROM seal_tiles WHERE level = %s AND index >= %s AND index < %s ORDER BY index",
            [level - 1, first, first + TILE],
            binary=True,
        )
        return b"".join([root for (root,) in await cursor.fetchall()])
    cursor = await connection.execute(
        "SELECT size, hashes FROM seal_checkpoints WHERE size > %s AND size <= %s ORDER BY number",
        [first, sealed],
        binary=True,
    )
    return unfinished(first, sealed, await cursor.fetchall())
