"""When nobody's snapshot can see old versions of rows any more: VACUUM FULL keeps them until then."""

import time
from collections.abc import Callable
from typing import Final

import psycopg

_HERE: Final = "SELECT pg_current_xact_id()::xid::text"
# Snapshots in other databases count for nothing here; those of replicas count for all.
_HELD: Final = """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND (datname = current_database() OR backend_type = 'walsender')
           AND age(backend_xmin) > age(%s::xid))"""
_LOOK_S: Final = 0.1


def await_horizon(
    connection: psycopg.Connection, patience_s: float, is_cancelled: Callable[[], bool]
) -> bool:
    """Wait until all snapshots that are older than now are gone; False where that takes too long.

    The connection has to be in autocommit mode. Raises `psycopg.Error`.
    """
    until = time.monotonic() + patience_s
    row = connection.execute(_HERE).fetchone()
    while row and _is_held(connection, row[0]):
        if is_cancelled() or time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True


def _is_held(connection: psycopg.Connection, here: str) -> bool:
    row = connection.execute(_HELD, [here]).fetchone()
    return bool(row and row[0])
