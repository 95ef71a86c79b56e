"""The sealed tree in PostgreSQL: tiles, checkpoints, and the right edge of the tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

from infrastructure.audit.merkle import HASH_BYTES, TILE, TILE_LEVELS, Growth, Tile, split

# Both numbers are ours alone within the database: whoever seals holds the first, for as long as its
# connection lives; whoever writes a checkpoint holds the second to the end of the transaction.
_SEALER: Final = 7812943190436630
_WRITER: Final = 7812943190436631
_COLUMNS: Final = "number, size, recorded_at, root, hashes, note"


@dataclass(frozen=True)
class Sealed:
    """A checkpoint as it is stored; `hashes` are new at it and stand in no tile at its size."""

    number: int
    size: int
    recorded_at: datetime
    root: bytes
    hashes: bytes
    note: str


class MovedError(Exception):
    """Somebody else has written a checkpoint since we looked."""


class EdgeError(Exception):
    """The stored tiles and checkpoints do not make a whole tree."""


def try_lock(connection: psycopg.Connection) -> bool:
    """Take the right to seal, for as long as the connection lives."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [_SEALER]).fetchone()
    return bool(row and row[0])


def unlock(connection: psycopg.Connection) -> None:
    """Give the right back, where we have it."""
    connection.execute("SELECT pg_advisory_unlock(%s)", [_SEALER])


def hold_off_writers(connection: psycopg.Connection) -> None:
    """Let nobody else write a checkpoint until the end of this transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_WRITER])


def heads(connection: psycopg.Connection) -> tuple[int, int]:
    """Return the newest position of the log and the newest sealed one."""
    row = connection.execute(
        "SELECT position, coalesce((SELECT max(size) FROM seal_checkpoints), 0) FROM log_head"
    ).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def newest(connection: psycopg.Connection) -> Sealed | None:
    """Return the newest checkpoint."""
    cursor = connection.cursor(row_factory=class_row(Sealed))
    return cursor.execute(
        f"SELECT {_COLUMNS} FROM seal_checkpoints ORDER BY number DESC LIMIT 1".encode()
    ).fetchone()


def notes(connection: psycopg.Connection, *, everything: bool = False) -> list[str]:
    """Return the newest note, or all of them, the oldest first."""
    found = newest(connection)
    if not everything:
        return [found.note] if found else []
    return [note for (note,) in connection.execute("SELECT note FROM seal_checkpoints ORDER BY number")]


def newest_note(connection: psycopg.Connection, *, up_to: int) -> str | None:
    """Return the newest note of a log of at most so many events, None where there is none."""
    row = connection.execute(
        "SELECT note FROM seal_checkpoints WHERE size <= %s ORDER BY number DESC LIMIT 1", [up_to]
    ).fetchone()
    return row[0] if row else None


def write(
    connection: psycopg.Connection,
    after: int,
    sealed: Sealed,
    tiles: Sequence[Tile] = (),
) -> None:
    """Write a checkpoint and the tiles it has finished, in one transaction.

    Raises `MovedError` where the newest checkpoint's number is not `after`.
    """
    with connection.transaction():
        hold_off_writers(connection)
        found = newest(connection)
        if (found.number if found else 0) != after:
            raise MovedError
        connection.execute(
            "INSERT INTO seal_tiles (level, index, root, hashes)"
            " SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bytea[], %s::bytea[])",
            [
                [tile.level for tile in tiles],
                [tile.index for tile in tiles],
                [tile.root for tile in tiles],
                [tile.hashes for tile in tiles],
            ],
        )
        connection.execute(
            f"INSERT INTO seal_checkpoints ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)".encode(),
            [sealed.number, sealed.size, sealed.recorded_at, sealed.root, sealed.hashes, sealed.note],
        )


def growth_at(connection: psycopg.Connection, sealed: Sealed) -> Growth:
    """Return the tree as of its newest checkpoint, to be grown on.

    Raises `EdgeError` where what is stored does not make its root.
    """
    edges, level, count = [_unfinished(connection, sealed.size)], 0, sealed.size >> TILE_LEVELS
    while count:
        edges.append(_roots(connection, level, count - count % TILE, count))
        level, count = level + 1, count >> TILE_LEVELS
    growth = Growth(sealed.size, edges)
    if growth.root() != sealed.root:
        raise EdgeError
    return growth


def _roots(connection: psycopg.Connection, level: int, first: int, end: int) -> list[bytes]:
    rows = connection.execute(
        "SELECT root FROM seal_tiles WHERE level = %s AND index >= %s AND index < %s ORDER BY index",
        [level, first, end],
        binary=True,
    ).fetchall()
    if len(rows) != end - first:
        raise EdgeError
    return [root for (root,) in rows]


def _unfinished(connection: psycopg.Connection, size: int) -> list[bytes]:
    """Return the hashes of the events that stand in no tile yet."""
    begin = size - size % TILE
    rows = connection.execute(
        "SELECT size, hashes FROM seal_checkpoints WHERE size > %s AND size <= %s ORDER BY number",
        [begin, size],
        binary=True,
    ).fetchall()
    return split(unfinished(begin, size, rows))


def unfinished(begin: int, size: int, rows: Sequence[tuple[int, bytes]]) -> bytes:
    """Join the hashes of the events from `begin` up to `size` out of checkpoints: (size, hashes) each.

    Raises `EdgeError` where they do not follow on each other.
    """
    joined = b""
    for end, hashes in rows:
        if hashes and begin + (len(joined) + len(hashes)) // HASH_BYTES != end:
            raise EdgeError
        joined += hashes
    if len(joined) != (size - begin) * HASH_BYTES:
        raise EdgeError
    return joined
