"""A database with a log of many millions of events, built in minutes and, if wanted, kept for the next run.

Several connections COPY side by side into tables without indexes; the indexes are built afterwards. While
it is built the server flushes nothing and logs no index. What is kept is a data folder that was stopped in
good order, and `built.json` in it says what it holds: a build that was interrupted is none.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psycopg

from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.schema import migrate
from infrastructure.projections.operating import make_tables, rebuild_projection
from infrastructure.projections.registry import READ_MODELS
from tests.benchmarks.audit_log import KEYS, LOG, TURNS, BigLog
from tests.opened import vault

WORKERS: Final = 2
ROUNDS_AT_A_TIME: Final = 10
BUILDING: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "shared_buffers": "1GB",
    "maintenance_work_mem": "1GB",
    "max_parallel_maintenance_workers": str(WORKERS),
    "autovacuum": "off",
}
TABLES: Final = ("log", "turns", "keys.conversations")
_INDEXES: Final = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), conname FROM pg_index
      LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u')
     WHERE indrelid = %s::regclass"""


@dataclass(frozen=True)
class Built:
    """What was built: so many events, of so many bytes with their indexes, in so many seconds."""

    events: int
    bytes: int
    seconds: float

    def said(self) -> str:
        """Say it in a line."""
        return (
            f"{self.events:,} events, {self.bytes / 2**30:.1f} GiB with indexes, made in {self.seconds:.0f} s"
        )


def asked(doc: str | None, events: int) -> argparse.Namespace:
    """Return what the command line of a benchmark says: `events` and `keep`, a folder or None."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", nargs="?", type=int, default=events)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="build the log there once, and use it again"
    )
    return parser.parse_args()


@contextmanager
def big_database(events: int, keep: Path | None = None) -> Iterator[tuple[str, Path, Built]]:
    """Give the URL of a database with at least so many events, its folder, and what was built.

    Raises ValueError where the folder holds something else, or a log of fewer.
    """
    with TemporaryDirectory(prefix="minutebook-bench-") as name:
        folder = keep or Path(name)
        note = folder / "built.json"
        if not note.exists():
            if (folder / "pg").exists():
                raise ValueError(f"{folder} holds a log that was not built to its end; remove it")
            built = _build(folder, events)
            note.write_text(json.dumps(asdict(built)))
        built = Built(**json.loads(note.read_text()))
        if built.events < events:
            raise ValueError(f"{folder} holds {built.events} events, and {events} are asked for")
        with EmbeddedPostgres(folder) as server:
            yield server.start(), folder, built


def _build(folder: Path, events: int) -> Built:
    began = time.monotonic()
    with EmbeddedPostgres(folder, settings=BUILDING) as server:
        url = server.start()
        migrate(url)
        made = fill(url, events)
        make_tables(url, READ_MODELS)
        rebuild_projection(url, vault(), "requests", lambda _: None, lambda: False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row
    return Built(made, row[0], time.monotonic() - began)


def fill(url: str, events: int) -> int:
    """Fill an empty log with at least so many events, their turns and keys; returns how many there are."""
    in_a_round = BigLog(vault()).events_a_round
    rounds = -(-events // in_a_round)
    parts = [
        range(first, min(first + ROUNDS_AT_A_TIME, rounds)) for first in range(0, rounds, ROUNDS_AT_A_TIME)
    ]
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = {table: _without_indexes(connection, table) for table in TABLES}
        with ProcessPoolExecutor(WORKERS, initializer=_begin, initargs=(url,)) as pool:
            for _ in pool.map(_copy, parts):
                pass
        for table in TABLES:
            _with_indexes(connection, table, indexes[table])
    return rounds * in_a_round


_own: dict[str, tuple[str, BigLog]] = {}


def _begin(url: str) -> None:
    _own["log"] = url, BigLog(vault())


def _copy(rounds: range) -> None:
    """Copy some rounds into the tables: the work of one process."""
    url, big = _own["log"]
    with psycopg.connect(url) as connection:
        _copy_rows(connection, "keys.conversations", KEYS, big.key_rows(rounds))
        _copy_rows(connection, "log", LOG, big.log_rows(rounds))
        _copy_rows(connection, "turns", TURNS, big.turn_rows(rounds))


def _copy_rows(connection: psycopg.Connection, table: str, columns: str, rows: Iterable[bytes]) -> None:
    with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)".encode()) as copy:
        for piece in rows:
            copy.write(piece)


Index = tuple[str, str, str | None]


def _without_indexes(connection: psycopg.Connection, table: str) -> list[Index]:
    """Drop the indexes of a table; returns how to make them again."""
    indexes = connection.execute(_INDEXES.encode(), [table]).fetchall()
    for name, _, constraint in indexes:
        drop = f"ALTER TABLE {table} DROP CONSTRAINT {constraint}" if constraint else f"DROP INDEX {name}"
        connection.execute(drop.encode())
    return indexes


def _with_indexes(connection: psycopg.Connection, table: str, indexes: Iterable[Index]) -> None:
    """Build the indexes as they were."""
    for name, definition, constraint in indexes:
        connection.execute(definition.encode())
        if constraint:
            kind = "PRIMARY KEY" if constraint.endswith("_pkey") else "UNIQUE"
            own_name = name.rpartition(".")[2]
            add = f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {kind} USING INDEX {own_name}"
            connection.execute(add.encode())
    connection.execute(f"VACUUM (ANALYZE) {table}".encode())
