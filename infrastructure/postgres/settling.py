"""What became of saves whose acknowledgement was lost."""

from collections.abc import Sequence

import psycopg

from application.ports import Closing
from infrastructure.postgres.batch import NewEvent, Save, Stored


async def settle(connection: psycopg.AsyncConnection, saves: Sequence[Save]) -> list[Stored | None]:
    """Say of each save where it went, or None where it is not in the log.

    The lock of the append comes first: it waits for the transaction in doubt to finish. A statement
    that has not even reached the server yet can still come after us; then it finds another version
    or a closed turn, if only the save is repeated, and is refused.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(append_lock())")
        return [await _find(connection, save) for save in saves]


async def _find(connection: psycopg.AsyncConnection, save: Save) -> Stored | None:
    if save.closing is not None:
        return await _find_turn(connection, save.closing, save.node)
    return await _find_events(connection, save.events) if save.events else None


async def _find_turn(connection: psycopg.AsyncConnection, closing: Closing, node: str) -> Stored | None:
    cursor = await connection.execute(
        "SELECT first_position, last_position, ended_at FROM turns "
        "WHERE id = %s AND attempt = %s AND node = %s AND state = 'committed' FOR UPDATE",
        [closing.turn_id, closing.attempt, node],
    )
    row = await cursor.fetchone()
    return None if row is None else Stored(*row)


async def _find_events(connection: psycopg.AsyncConnection, events: Sequence[NewEvent]) -> Stored | None:
    first = events[0]
    cursor = await connection.execute(
        "SELECT position, recorded_at FROM log "
        "WHERE stream = %s AND version = %s AND turn = %s AND type = %s AND data = %s",
        [first.stream, first.version, first.turn, first.type, first.data],
    )
    row = await cursor.fetchone()
    return None if row is None else Stored(row[0], row[0] + len(events) - 1, row[1])
