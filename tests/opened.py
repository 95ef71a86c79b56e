"""The log as its bytes say it, opened by nothing but the key store and the master key of the tests."""

import base64

import psycopg
from psycopg.rows import class_row

from infrastructure.postgres.key_store import keys_of, opened
from infrastructure.postgres.rows import Row
from infrastructure.vault import Vault
from tests.serving import MASTER_KEY


def vault() -> Vault:
    """Return a vault of one's own with the master key of the tests."""
    return Vault(base64.b64decode(MASTER_KEY))


def opened_log(url: str) -> list[Row]:
    """Return all events of the log, in order, with their data as it was before it was sealed."""
    with psycopg.connect(url) as connection:
        columns = "position, stream, version, type, conversation, turn, actor, recorded_at, data"
        with connection.cursor(row_factory=class_row(Row)) as cursor:
            rows = cursor.execute(f"SELECT {columns} FROM log ORDER BY position".encode()).fetchall()
        keys = keys_of(connection, vault(), {row.conversation for row in rows if row.conversation})
    return [opened(row, keys) for row in rows]


def opened_payload(url: str, turn_id: str) -> bytes:
    """Return what was asked for in a turn that has not been committed, as it was before it was sealed."""
    with psycopg.connect(url) as connection:
        salt, payload = connection.execute(
            "SELECT salt, payload FROM keys.master, turns WHERE id = %s", [turn_id]
        ).fetchone() or (b"", b"")
    return vault().purpose("turns", salt).open(payload, f"turn\n{turn_id}".encode())
