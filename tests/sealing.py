"""A log to seal, and what was sealed of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
from psycopg.rows import class_row

from infrastructure.audit.leaf import COLUMNS, StoredRow
from infrastructure.audit.seal_store import Sealed
from infrastructure.audit.sealer import Sealer
from infrastructure.audit.signing import Signing

# Events of a few streams, with texts beyond ASCII and data of every length from nothing on.
_FILL = """
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT h.position + n, clock_timestamp(),
           (n - 1) / 3 + 1,
           s.stream, 'conversation.renamed', 'c' || n %% 3, 'turn-' || n, 'user:Zoë',
           convert_to(repeat('{"title":"ü"}', (h.position + n)::int %% 60), 'UTF8')
      FROM (SELECT coalesce(max(position), 0) AS position FROM log) h
     CROSS JOIN generate_series(1, %s) AS n
     CROSS JOIN LATERAL (SELECT 'conversation-' || h.position || '-' || n %% 3 AS stream) AS s"""


def fill(url: str, events: int) -> None:
    """Append so many events."""
    with psycopg.connect(url) as connection:
        connection.execute(_FILL.encode(), [events])


def rows_of(url: str) -> list[StoredRow]:
    """Return the log."""
    with psycopg.connect(url) as connection:
        cursor = connection.cursor(row_factory=class_row(StoredRow), binary=True)
        return cursor.execute(f"SELECT {COLUMNS} FROM log ORDER BY position".encode()).fetchall()


def signing_in(folder: Path) -> Signing:
    """Return the signing of a test: with a key in a folder of its own."""
    return Signing("minutebook", folder / "keys")


def sealed_checkpoints(url: str) -> list[Sealed]:
    """Return all checkpoints, oldest first."""
    with psycopg.connect(url) as connection:
        cursor = connection.cursor(row_factory=class_row(Sealed))
        return cursor.execute(
            "SELECT number, size, recorded_at, root, hashes, note FROM seal_checkpoints ORDER BY number"
        ).fetchall()


def seal(url: str, folder: Path, timeout_s: float = 30) -> None:
    """Seal all that is there now, with the key in the folder, and stop."""
    sealer = Sealer(url, signing_in(folder), interval_s=0.01)
    with psycopg.connect(url, autocommit=True) as connection:
        (head,) = connection.execute("SELECT position FROM log_head").fetchone() or (0,)
        sealer.start()
        try:
            wait_until(lambda: sealed_size(connection) >= head, timeout_s)
        finally:
            asyncio.run(sealer.stop())


def sealed_size(connection: psycopg.Connection) -> int:
    """Return how many events are sealed."""
    row = connection.execute("SELECT coalesce(max(size), 0) FROM seal_checkpoints").fetchone()
    return int(row[0]) if row else 0


def wait_until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait for what another thread or process does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.01)


def fill_and_seal(url: str, folder: Path, sizes: Sequence[int]) -> None:
    """Let the log grow to these sizes, one after the other, and seal each."""
    done = 0
    for size in sizes:
        fill(url, size - done)
        seal(url, folder)
        done = size
