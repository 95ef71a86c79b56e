"""Questions to a test's database, behind the backs of those who serve it.

A connection is kept as long as the database is there: a new one costs fifty times what most questions do,
and many tests ask until something has come to pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import psycopg

_kept: dict[str, psycopg.Connection | None] = {}  # by URL
_in_use = Lock()


@contextmanager
def keeping(url: str) -> Iterator[None]:
    """Keep a connection to this database for the length of the block, from the first question on."""
    _kept[url] = None
    try:
        yield
    finally:
        if connection := _kept.pop(url):
            connection.close()


def query(url: str, statement: str, *values: object) -> list[Any]:
    """Run one statement and return its rows; where the kept connection is in use or broken, on a new one."""
    if url in _kept and _in_use.acquire(blocking=False):
        try:
            return _rows(_connection(url), statement, values)
        except psycopg.OperationalError:
            if (connection := _kept[url]) and not connection.closed:
                raise
        finally:
            _in_use.release()
    with psycopg.connect(url, autocommit=True) as connection:
        return _rows(connection, statement, values)


def _connection(url: str) -> psycopg.Connection:
    connection = _kept[url]
    if connection is None or connection.closed:
        connection = _kept[url] = psycopg.connect(url, autocommit=True)
    return connection


def _rows(connection: psycopg.Connection, statement: str, values: tuple[object, ...]) -> list[Any]:
    cursor = connection.execute(statement.encode(), values or None)
    return cursor.fetchall() if cursor.description else []
