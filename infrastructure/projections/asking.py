"""How a query asks a read model: rows and checkpoint in one statement, so that both are of one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.projections.read_model import Row


@dataclass(frozen=True, slots=True)
class Found:
    """Rows as of a position; `known` is whether what was asked about is there at all."""

    position: int
    known: bool
    rows: Sequence[Row]


class Asker:
    """Asks the tables of one projection.

    A statement names the tables, never a generation of them, so that it finds the ones a rebuild
    has just put in their place.
    """

    def __init__(self, pool: Pool, projection: str) -> None:
        self._pool = pool
        self._projection = projection

    async def ask(
        self,
        query: str,
        order: str,
        values: Mapping[str, Any],
        known: str = "true",
        *,
        kept_plan: bool = False,
        planning: str | None = None,
    ) -> Found:
        """Return what `query` finds, in this order. `known` is a condition of its own.

        `kept_plan` keeps the plan on the connection, for queries whose best plan never depends on
        their values; `planning` are settings for this query alone. Raises `StoreUnavailableError`.
        """
        statement = f"""
            SELECT at.*, answer.* FROM (
                SELECT coalesce((SELECT position FROM projections WHERE name = %(projection)s), 0), {known}
            ) AS at (at_position, known)
            LEFT JOIN LATERAL (SELECT true AS is_row, found.* FROM ({query}) AS found) AS answer ON true
            ORDER BY answer.{order}"""
        given = {**values, "projection": self._projection}
        async with store_errors(), self._pool.connection() as connection:
            if planning is None:
                return await _found(connection, statement, given, kept_plan)
            async with connection.transaction():
                await connection.execute(planning.encode())
                return await _found(connection, statement, given, kept_plan)


async def _found(
    connection: AsyncConnection[Any], statement: str, values: Mapping[str, Any], kept_plan: bool
) -> Found:
    cursor = connection.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(statement.encode(), values, prepare=kept_plan)
    names = [column.name for column in cursor.description or ()]
    rows = await cursor.fetchall()
    first = rows[0]  # there is always one: its own columns are empty where nothing was found
    return Found(first[0], first[1], [dict(zip(names[3:], row[3:], strict=True)) for row in rows if row[2]])


def conditions(given: Mapping[str, Any], clauses: Mapping[str, str]) -> str:
    """Return the clauses of what is given, joined: the planner then sees only what matters."""
    return " AND ".join(clause for name, clause in clauses.items() if given.get(name) is not None) or "true"


class PostgresCheckpoints:
    """How far each projection has got, as the database knows it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def positions(self) -> Mapping[str, int]:
        """Return the position of each projection by its name. Raises `StoreUnavailableError`."""
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute("SELECT name, position FROM projections", prepare=True)
            return dict(await cursor.fetchall())
