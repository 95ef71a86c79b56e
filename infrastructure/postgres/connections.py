"""Connections that notice when the other end is gone, and errors that say no more than they must."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from application.errors import StoreUnavailableError

# What the driver tells of a connection that broke is for a log that somebody has set up, not for a terminal.
logging.getLogger("psycopg").addHandler(logging.NullHandler())
# A peer that vanished is noticed in about 15 s, whether we wait for it to answer or to take our bytes.
_LIVENESS: Mapping[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# `append_batch` looks rows up by an index, each of them, however small the tables still are.
_APPENDING = "plan_cache_mode=force_generic_plan enable_seqscan=off enable_hashjoin=off enable_mergejoin=off"


def arguments(name: str, statement_timeout_s: float, connect_timeout_s: int = 5) -> dict[str, Any]:
    """Return what every connection is opened with; `name` is shown in `pg_stat_activity`."""
    options = f"-c statement_timeout={int(statement_timeout_s * 1000)} -c timezone=UTC"
    return {
        **_LIVENESS,
        "autocommit": True,
        "application_name": name,
        "client_encoding": "utf8",  # whatever PGCLIENTENCODING says
        "connect_timeout": connect_timeout_s,
        "options": options,
    }


def appending(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return these arguments for a connection that calls `append_batch` over and over.

    As settings of the function itself they would cost each call as much as one of its look-ups.
    """
    options = "".join(f" -c {setting}" for setting in _APPENDING.split())
    return {**arguments, "options": arguments["options"] + options}


@asynccontextmanager
async def store_errors() -> AsyncIterator[None]:
    """Turn every failure of the database into `StoreUnavailableError`, without its details."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, PoolClosed, TooManyRequests, OSError) as error:
        raise StoreUnavailableError from error
