"""The tables that a rebuild makes beside those that answer, and what becomes of left ones."""

import psycopg

from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.writing import Store


def suffix(generation: int) -> str:
    """Return how the names of a generation's tables end."""
    return f"__g{generation}"


def compared(name: str) -> str:
    """Return what a comparison notes its tables under, so that a rebuild beside it stays what it is."""
    return f"{name} (compared)"


def clean(connection: psycopg.Connection, model: ReadModel) -> None:
    """Drop what rebuilds have left and nobody can use. The caller holds the right to rebuild."""
    kept = connection.execute(
        "SELECT max(generation) FROM rebuilds WHERE name = %s HAVING min(version) = %s",
        [model.name, model.version],
    ).fetchone()
    usable = kept[0] if kept and Store(model, suffix(kept[0])).exists(connection) else None
    with connection.transaction():
        connection.execute("DELETE FROM rebuilds WHERE name = %s", [compared(model.name)])
        if usable is None:
            connection.execute("DELETE FROM rebuilds WHERE name = %s", [model.name])
        for table in model.tables:
            for name in _generations(connection, table.name):
                if usable is None or name != f"{table.name}{suffix(usable)}":
                    connection.execute(f"DROP TABLE IF EXISTS {name}".encode())


def _generations(connection: psycopg.Connection, table: str) -> list[str]:
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid)"
        "   AND starts_with(relname, %s) AND relname ~ '__g[0-9]+$'", [f"{table}__g"],
    )  # fmt: skip
    return [name for (name,) in found]


def discard(connection: psycopg.Connection, model: ReadModel) -> None:
    """Drop what an unfinished rebuild or comparison has left. The caller holds the right to rebuild."""
    _drop(connection, model, [model.name, compared(model.name)])


def discard_comparison(connection: psycopg.Connection, model: ReadModel) -> None:
    """Drop what a comparison has made or left, and nothing else. The caller holds the right to rebuild."""
    _drop(connection, model, [compared(model.name)])


def _drop(connection: psycopg.Connection, model: ReadModel, names: list[str]) -> None:
    rows = connection.execute(
        "DELETE FROM rebuilds WHERE name = ANY(%s) RETURNING generation", [names]
    ).fetchall()
    for generation in {generation for (generation,) in rows}:
        Store(model, suffix(generation)).drop(connection)
