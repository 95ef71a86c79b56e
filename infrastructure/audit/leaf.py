"""What is hashed of an event: all its columns and its stored bytes, in one encoding.

A leaf is the event as a row of PostgreSQL's binary COPY, so that it can be hashed as it comes: big-endian,
the number of columns (2 bytes, 9), then for each column its length in bytes (4 bytes) and its value, in this
order: position (8 bytes), recorded_at (8: microseconds since 2000-01-01 00:00 UTC), version (4), stream,
type, conversation, turn, actor (UTF-8), data (as stored). Every length stands before its value, so two
different events never have the same leaf.
"""

import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

import psycopg
from psycopg import pq

from infrastructure.audit.merkle import leaf_hash

COLUMNS: Final = "position, recorded_at, version, stream, type, conversation, turn, actor, data"
# Of a leaf: position, version, and the length of the stream's name, which begins at byte 38.
HEAD: Final = Struct(">6xq12x4xii")
STREAM_AT: Final = 38
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_FIXED: Final = Struct(">hiqiqii")
_LENGTH: Final = Struct(">i")
# The signature of the format, flags and an empty extension come glued to the first row.
_PREAMBLE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
SILENCE_S: Final = 60  # how long a server may send nothing in the middle of its answer


@dataclass(frozen=True)
class StoredRow:
    """An event as its row in the log has it."""

    position: int
    recorded_at: datetime
    version: int
    stream: str
    type: str
    conversation: str
    turn: str
    actor: str
    data: bytes


def encoded(row: StoredRow) -> bytes:
    """Return the leaf of an event, made without PostgreSQL."""
    at = (row.recorded_at - _EPOCH) // timedelta(microseconds=1)
    texts = (row.stream, row.type, row.conversation, row.turn, row.actor)
    values = [*(text.encode() for text in texts), row.data]
    fixed = _FIXED.pack(9, 8, row.position, 8, at, 4, row.version)
    return fixed + b"".join(_LENGTH.pack(len(value)) + value for value in values)


def leaf_hash_of(row: StoredRow) -> bytes:
    """Return the hash of an event's leaf, as it stands in the tree."""
    return leaf_hash(encoded(row))


def read_leaves(connection: psycopg.Connection, after: int, last: int) -> Iterator[bytes]:
    """Stream the leaves above the position `after` and up to `last`, in their order.

    PostgreSQL sends a row a message, so nothing has to be taken apart. The connection does nothing else
    meanwhile, and is closed where the leaves are not read to their end. Raises `psycopg.Error`.
    """
    link = connection.pgconn
    is_done = False
    try:
        _begin(link, after, last)
        read, is_first = link.get_copy_data, True
        size, row = read(1)
        while size >= 0:
            if size == 0:
                _wait(link)
            elif is_first:
                is_first = False
                yield from _without_preamble(bytes(row))
            elif size != len(_TRAILER):
                yield row  # type: ignore[misc] # a view of the driver's memory
            size, row = read(1)
        is_done = size == -1 and _ended_well(link)
    finally:
        if not is_done:
            connection.close()
    if not is_done:
        raise psycopg.OperationalError("the log could not be read to its end")


def _wait(link: pq.abc.PGconn) -> None:
    """Wait for the server to say more.

    Not in libpq, which would hold up every other thread: a server whose database says nothing would stand
    still with it. Raises `psycopg.OperationalError`.
    """
    waiting = select.poll()
    waiting.register(link.socket, select.POLLIN)
    if not waiting.poll(SILENCE_S * 1000):
        raise psycopg.OperationalError("the server says nothing any more")
    link.consume_input()


def _begin(link: pq.abc.PGconn, after: int, last: int) -> None:
    statement = (
        f"COPY (SELECT {COLUMNS} FROM log WHERE position > {after:d} AND position <= {last:d}"
        " ORDER BY position) TO STDOUT (FORMAT binary)"
    )
    link.send_query(statement.encode())
    while link.flush():  # more than the socket takes at once
        time.sleep(0.001)
    result = _result(link)
    if result is None or result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.OperationalError("the log cannot be read")


def _without_preamble(first: bytes) -> Iterator[bytes]:
    if not first.startswith(_PREAMBLE):
        raise psycopg.DataError("the server sends no binary COPY")
    row = first[len(_PREAMBLE) :]
    if row and row != _TRAILER:
        yield row


def _result(link: pq.abc.PGconn) -> pq.abc.PGresult | None:
    while link.is_busy():
        _wait(link)
    return link.get_result()


def _ended_well(link: pq.abc.PGconn) -> bool:
    is_well = True
    while result := _result(link):
        is_well = is_well and result.status == pq.ExecStatus.COMMAND_OK
    return is_well
