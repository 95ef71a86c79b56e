"""What an operator wants to see of the store, without what was said in it."""

from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

_TURNS: Final = """
    SELECT accepted_at, id AS turn, conversation, kind, state, attempt, code, node, ended_at
      FROM turns WHERE %(state)s::text IS NULL OR state = %(state)s
     ORDER BY accepted_at DESC LIMIT %(limit)s"""


def operator_turns(conninfo: str, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the newest turns, in this state or any; times are ISO 8601 texts."""
    with psycopg.connect(conninfo, row_factory=dict_row, client_encoding="utf8") as connection:
        rows = connection.execute(_TURNS, {"state": state, "limit": limit}).fetchall()
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if hasattr(value, "isoformat") else value
