"""A conversation's rows, taken out of all read models: a fold that stands still holds up no erasure."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from infrastructure.projections.read_model import ReadModel

_ATTEMPTS: Final = 20
# Shorter than the server looks for deadlocks: whoever writes the same rows goes on, and we come back.
_WAIT_MS: Final = 500
# Whoever folds or swaps moves these rows first, so nobody does either meanwhile.
_HOLD: Final = (
    "SELECT FROM projections WHERE name = %s FOR UPDATE",
    "SELECT FROM rebuilds WHERE name = %s ORDER BY part FOR UPDATE",
)
# The tables that answer, and those of rebuilds. One in which the receipt is folded holds nothing but what the
# receipt says; of those that no rebuild knows any more none is.
_TABLES: Final = """
    SELECT relname
      FROM (SELECT relname, substring(relname FROM '__g([0-9]{1,18})$')::bigint AS generation
              FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid)) AS t
     WHERE regexp_replace(relname, '__g[0-9]+$', '') = ANY(%(tables)s)
       AND coalesce(CASE WHEN generation IS NULL
                         THEN (SELECT position FROM projections WHERE name = %(name)s)
                         ELSE (SELECT max(position) FROM rebuilds r
                                WHERE name = %(name)s AND r.generation = t.generation) END, 0) < %(receipt)s
     ORDER BY relname"""


async def purge(
    connection: psycopg.AsyncConnection[Any], models: Sequence[ReadModel], conversation: str, receipt: int
) -> None:
    """Delete the conversation's rows of these read models, where the receipt at this position is not folded.

    The checkpoints stay: it is folded as ever, and finds nothing to delete. Raises `psycopg.Error`.
    """
    for model in models:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await _purge(connection, model, conversation, receipt)
                break
            except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable):  # a rebuild is at it
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311 (so that we do not meet again)


async def _purge(
    connection: psycopg.AsyncConnection[Any], model: ReadModel, conversation: str, receipt: int
) -> None:
    asked = {"tables": [table.name for table in model.tables], "name": model.name, "receipt": receipt}
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {_WAIT_MS}".encode())
        for hold in _HOLD:
            await connection.execute(hold.encode(), [model.name])
        cursor = await connection.execute(_TABLES.encode(), asked)
        for (name,) in await cursor.fetchall():
            await connection.execute(f"DELETE FROM {name} WHERE conversation = %s".encode(), [conversation])
