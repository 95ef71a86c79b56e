"""How far each read model has got: one row each, moved in the transaction that writes its rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import psycopg
from psycopg.rows import class_row, dict_row

from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.writing import Store

State = Literal["following", "failed", "rebuilding"]

_MOVE: Final = b"""
    UPDATE projections SET position = %s, state = 'following', failed_position = NULL, error = NULL,
           updated_at = clock_timestamp()
     WHERE name = %s AND position = %s AND version = %s"""
_MOVE_REBUILD: Final = b"""
    UPDATE rebuilds SET position = %s, updated_at = clock_timestamp()
     WHERE name = %s AND part = %s AND generation = %s AND position = %s"""
_POSITION: Final = b"SELECT position FROM rebuilds WHERE name = %s AND part = %s AND generation = %s"
_ALL: Final = b"""
    SELECT p.name, p.version, p.position, greatest(h.position - p.position, 0) AS lag, p.state,
           p.failed_position, p.error, p.updated_at,
           r.position AS rebuilt, r.target AS rebuild_target, r.version AS rebuild_version
      FROM projections p CROSS JOIN log_head h
      LEFT JOIN (SELECT name, min(position) AS position, max(target) AS target, max(version) AS version
                   FROM rebuilds WHERE part >= 0 GROUP BY name) r USING (name)
     ORDER BY p.name"""


@dataclass(frozen=True)
class Checkpoint:
    """One row of `projections`."""

    name: str
    version: int
    position: int
    state: State
    failed_position: int | None
    error: str | None
    updated_at: datetime


@dataclass(frozen=True)
class LiveMark:
    """Moves the checkpoint of the tables that answer; whoever moves it first holds the others off."""

    name: str
    version: int

    def move(self, connection: psycopg.Connection, old: int, new: int) -> bool:
        """Move it, in the caller's transaction; False when it was not where we thought."""
        return connection.execute(_MOVE, [new, self.name, old, self.version], prepare=True).rowcount == 1


@dataclass(frozen=True)
class RebuildMark:
    """Moves the checkpoint of one part of a rebuild."""

    name: str
    part: int
    generation: int

    def move(self, connection: psycopg.Connection, old: int, new: int) -> bool:
        """Move it, in the caller's transaction; False when it was not where we thought."""
        values = [new, self.name, self.part, self.generation, old]
        return connection.execute(_MOVE_REBUILD, values, prepare=True).rowcount == 1

    def position(self, connection: psycopg.Connection) -> int | None:
        """Return where it is, None when there is no such part any more."""
        values = [self.name, self.part, self.generation]
        row = connection.execute(_POSITION, values).fetchone()
        return int(row[0]) if row else None


def find(connection: psycopg.Connection, name: str) -> Checkpoint | None:
    """Return where the read model is, None when it was never made."""
    cursor = connection.cursor(row_factory=class_row(Checkpoint))
    cursor.execute(
        "SELECT name, version, position, state, failed_position, error, updated_at"
        "  FROM projections WHERE name = %s", [name],
    )  # fmt: skip
    return cursor.fetchone()


def make_sure(connection: psycopg.Connection, model: ReadModel) -> Checkpoint:
    """Return where the read model is; where a table is missing, make all and begin at the beginning."""
    store = Store(model)
    with connection.transaction():
        _wait_for_our_turn(connection, model)
        found = find(connection, model.name)
        if found and (found.version != model.version or store.exists(connection)):
            return found
        store.drop(connection)
        store.create(connection)
        store.create_indexes(connection)
        connection.execute(
            "INSERT INTO projections (name, version) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE"
            "   SET version = excluded.version, position = 0, state = 'following',"
            "       failed_position = NULL, error = NULL, updated_at = clock_timestamp()",
            [model.name, model.version],
        )
        made = find(connection, model.name)
        assert made is not None  # noqa: S101 (we have just written it)
        return made


def _wait_for_our_turn(connection: psycopg.Connection, model: ReadModel) -> None:
    """Two processes that start together must not make the same tables."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [f"make {model.name}"])


def fail(connection: psycopg.Connection, name: str, position: int | None, error: str) -> None:
    """Note that the read model has stopped before this position, and why."""
    connection.execute(
        "UPDATE projections SET state = 'failed', failed_position = %s, error = %s,"
        " updated_at = clock_timestamp() WHERE name = %s",
        [position, error.replace("\0", ""), name],
    )


def note_rebuilding(connection: psycopg.Connection, name: str) -> None:
    """Note that the tables stand still until newer ones have been built."""
    connection.execute(
        "UPDATE projections SET state = 'rebuilding', failed_position = NULL, error = NULL,"
        " updated_at = clock_timestamp() WHERE name = %s AND state <> 'rebuilding'", [name],
    )  # fmt: skip


def overview(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Return every projection with its lag (events) and how far its rebuild has got."""
    return connection.cursor(row_factory=dict_row).execute(_ALL).fetchall()


def try_lock(connection: psycopg.Connection, purpose: str, name: str) -> bool:
    """Take the right to `follow` or `rebuild` the read model, for as long as the connection lives."""
    row = connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended(%s, 3))", [f"{purpose} {name}"]
    ).fetchone()
    return bool(row and row[0])


def unlock(connection: psycopg.Connection, purpose: str, name: str) -> None:
    """Give the right back."""
    connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 3))", [f"{purpose} {name}"])
