"""The pool that everything but the append and the tailing uses."""

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from infrastructure.postgres.connections import arguments, store_errors

__all__ = ["Pool", "create_pool", "open_pool", "store_errors"]

Pool = AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]


def create_pool(
    conninfo: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    wait_s: float = 5.0,
    statement_timeout_s: float = 30.0,
    name: str = "minutebook",
) -> Pool:
    """Return a closed pool of autocommit connections.

    A connection that has heard from its server in the pool is tried before it is given out, so one
    that died there hurts nobody, and one that did not costs no round trip. Whoever
    waits longer than `wait_s` seconds for one gets `PoolTimeout`, which `store_errors()` translates.
    """
    return AsyncConnectionPool(
        conninfo,
        kwargs=arguments(name, statement_timeout_s),
        min_size=min(min_size, max_size),
        max_size=max_size,
        timeout=wait_s,
        max_idle=300.0,
        max_lifetime=3600.0,
        # Attempts come ever further apart; given up early, the next who asks begins anew, and a
        # server that is back is found at once.
        reconnect_timeout=2.0,
        check=_check,
        open=False,
        name=name,
    )


async def _check(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    """Try a connection that has something to say although nobody asked: mostly, that it is over."""
    heard = select.poll()
    heard.register(connection.fileno(), select.POLLIN)
    if heard.poll(0):
        await AsyncConnectionPool.check_connection(connection)


@asynccontextmanager
async def open_pool(
    conninfo: str, *, min_size: int = 2, max_size: int = 10, name: str = "minutebook"
) -> AsyncIterator[Pool]:
    """Open a pool for the length of the block; it does not wait for the server to be there."""
    pool = create_pool(conninfo, min_size=min_size, max_size=max_size, name=name)
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close()
