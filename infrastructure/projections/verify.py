"""A read model compared with what the log says: every row that differs is named, nothing is changed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from infrastructure.projections import checkpoints
from infrastructure.projections.generations import discard_comparison, suffix
from infrastructure.projections.read_model import ReadModel, Table
from infrastructure.projections.rebuild import Rebuild, RebuildError
from infrastructure.projections.values import ERASURE
from infrastructure.projections.writing import Store

_WHOLE_TABLES: Final = b"""
    SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
    SET LOCAL work_mem = '64MB'"""


@dataclass(frozen=True)
class Difference:
    """A row that is not what the log says. None: there is no such row on that side."""

    table: str
    key: dict[str, Any]
    answered: dict[str, Any] | None
    folded: dict[str, Any] | None


@dataclass(frozen=True)
class Verified:
    """What was compared, and in how many rows it differs."""

    position: int
    differences: int


def verify(
    rebuild: Rebuild, model: ReadModel, on_difference: Callable[[Difference], None]
) -> Verified | None:
    """Fold the whole log beside the tables that answer and compare them at the same position.

    Nobody is held up: both are seen in one snapshot. Returns None where it was cancelled. Raises what
    a rebuild raises, and `RebuildError` where there is nothing to compare with. An unfinished rebuild
    of the same read model can still be resumed.
    """
    rebuild = rebuild.for_comparison()
    with rebuild.locked() as connection:
        position = _comparable(connection, model)
        discard_comparison(connection, model)
        generation = rebuild.begin(connection, position)
        try:
            if not rebuild.build(connection, generation):
                return None
            return _compared(connection, rebuild, model, generation, on_difference)
        finally:
            discard_comparison(connection, model)


def _comparable(connection: psycopg.Connection, model: ReadModel) -> int:
    """Return where the read model is. Raises `RebuildError` where it is not there, or not all of it."""
    found, reason = checkpoints.find(connection, model.name), None
    if found and found.version != model.version:
        reason = f"its tables are of version {found.version} and this program's fold is {model.version}"
    elif not found or not Store(model).exists(connection):
        reason = "there is nothing to compare with, a table of it is missing"
    if reason or not found:
        raise RebuildError(name=model.name, reason=f"{reason}; rebuild it first")
    return found.position


def _compared(
    connection: psycopg.Connection,
    rebuild: Rebuild,
    model: ReadModel,
    generation: int,
    on_difference: Callable[[Difference], None],
) -> Verified:
    differences = 0
    with connection.transaction(force_rollback=True):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = checkpoints.find(connection, model.name)
        _refuse_unfolded_erasure(connection, model, found.position if found else 0)
        position = rebuild.fold_up_to(connection, generation, found.position if found else 0)
        connection.execute(_WHOLE_TABLES)
        for table in model.tables:
            for difference in _differing(connection, table, generation):
                differences += 1
                on_difference(difference)
    return Verified(position, differences)


def _refuse_unfolded_erasure(connection: psycopg.Connection, model: ReadModel, position: int) -> None:
    """Raise where the tables still hold what nobody can read in the log any more."""
    row = connection.execute(
        "SELECT min(position) FROM log WHERE type = %s AND position > %s", [ERASURE, position]
    ).fetchone()
    if row and row[0]:
        reason = (
            f"the erasure at position {row[0]} has yet to reach its tables; compare again when a server"
            " has brought it there, or rebuild"
        )
        raise RebuildError(name=model.name, reason=reason)


def _differing(connection: psycopg.Connection, table: Table, generation: int) -> Iterator[Difference]:
    keys = ", ".join(table.key)
    statement = (
        f"SELECT row_to_json(a)::text, row_to_json(f)::text"
        f"  FROM {table.name} a FULL JOIN {table.name}{suffix(generation)} f USING ({keys})"
        f" WHERE a::text IS DISTINCT FROM f::text ORDER BY {keys}"
    )
    with connection.cursor(name="differing") as cursor:
        for answered, folded in cursor.execute(statement.encode()):
            rows = [json.loads(row) if row else None for row in (answered, folded)]
            one = next(row for row in rows if row is not None)
            yield Difference(table.name, {name: one[name] for name in table.key}, *rows)
