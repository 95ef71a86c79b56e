"""The connections of the projections: nobody waits for them, and nothing is lost with them."""

from typing import Any

import psycopg

from infrastructure.postgres.connections import arguments

# A projector whose machine is gone loses its locks within seconds, so that another can take over.
_GONE = (
    " -c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=2"
    " -c idle_in_transaction_session_timeout=60s"
)
# Rows and checkpoint are in one transaction: a commit that a crash takes back is folded again.
_UNFLUSHED = " -c synchronous_commit=off"
# Rows are looked up by key and the log by position; a plan that was made while a table was small
# would read all of it later.
_BY_INDEX = " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"


def connect(
    url: str, name: str, *, by_index: bool = True, statement_timeout_s: float = 0, lock_timeout_s: float = 0
) -> psycopg.Connection:
    """Open a connection; without `by_index` it may plan as it likes (for whole tables).

    A timeout of 0 seconds is none.
    """
    settings: dict[str, Any] = arguments(f"minutebook {name}", statement_timeout_s)
    settings["options"] += _GONE + _UNFLUSHED + (_BY_INDEX if by_index else "")
    settings["options"] += f" -c lock_timeout={int(lock_timeout_s * 1000)}"
    return psycopg.Connection.connect(url, **settings)
