"""The keys of the conversations as the database keeps them: wrapped, fetched for many at a time."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import psycopg

from infrastructure.postgres import sealing
from infrastructure.postgres.connections import arguments
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.rows import Row
from infrastructure.vault import SEALED, Key, NoKey, StoredDataError, Vault

_KEYS: Final = "SELECT conversation, wrapped FROM keys.conversations WHERE conversation = ANY(%s)"
_CHECKED: Final = b"this is the master key"
_ABOUT: Final = b"master key"


class MasterKeyError(StoredDataError):
    """The master key does not fit this database: {reason}."""


class UnopenedKey:
    """Stands for a kept key that does not open: only what it sealed cannot be read."""

    def __init__(self, conversation: str) -> None:
        self._conversation = conversation

    def open(self, sealed: bytes, _about: bytes) -> bytes:
        """Return what was never sealed. Raises `StoredDataError` for everything else."""
        if sealed.startswith(SEALED):
            what = f"the key of conversation {self._conversation}"
            raise StoredDataError(reason=f"{what} is not what was kept, or not with this master key")
        return sealed


class KeyStore:
    """Opens rows of the log, with keys from memory or, in one query for all others, from the store."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self._pool = pool
        self.vault = vault

    async def opened(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows with their data as it was before it was sealed.

        Raises `StoreUnavailableError`, and `StoredDataError` for a row that is not what was sealed.
        """
        keys = await self.keys_of({row.conversation for row in rows if row.conversation})
        return [opened(row, keys) for row in rows]

    async def keys_of(self, conversations: Collection[str]) -> Mapping[str, Key]:
        """Return the keys of these conversations. Raises `StoreUnavailableError`."""
        keys, missing = _known(self.vault, conversations)
        if missing:
            async with store_errors(), self._pool.connection() as connection:
                cursor = await connection.cursor(binary=True).execute(_KEYS, [missing], prepare=True)
                keys.update(_unwrapped(self.vault, missing, await cursor.fetchall()))
        return keys


def keys_of(
    connection: psycopg.Connection, vault: Vault, conversations: Collection[str]
) -> Mapping[str, Key]:
    """Return the keys of these conversations, on a connection of the caller's. Raises `psycopg.Error`."""
    keys, missing = _known(vault, conversations)
    if missing:
        rows = connection.cursor(binary=True).execute(_KEYS, [missing], prepare=True).fetchall()
        keys.update(_unwrapped(vault, missing, rows))
    return keys


def keys_now(conninfo: str, vault: Vault, conversations: Collection[str]) -> Mapping[str, Key]:
    """Return the keys of these conversations, on a connection that is only made where it is needed."""
    keys, missing = _known(vault, conversations)
    if missing:
        with psycopg.connect(conninfo, **arguments("minutebook keys", 30)) as connection:
            keys.update(keys_of(connection, vault, missing))
    return keys


def opened(row: Row, keys: Mapping[str, Key]) -> Row:
    """Return the row with its data as it was before it was sealed. Raises `StoredDataError`."""
    if not row.conversation:
        return row
    return sealing.opened(row, keys[row.conversation])


def _known(vault: Vault, conversations: Iterable[str]) -> tuple[dict[str, Key], list[str]]:
    keys: dict[str, Key] = {}
    missing = []
    for conversation in conversations:
        if key := vault.find(conversation):
            keys[conversation] = key
        else:
            missing.append(conversation)
    return keys, missing


def _unwrapped(
    vault: Vault, asked: Iterable[str], rows: Iterable[tuple[str, bytes | None]]
) -> Mapping[str, Key]:
    found: dict[str, Key] = {conversation: NoKey(conversation) for conversation in asked}
    found.update(
        {conversation: _unwrapped_one(vault, conversation, wrapped) for conversation, wrapped in rows}
    )
    return found


def _unwrapped_one(vault: Vault, conversation: str, wrapped: bytes | None) -> Key:
    try:
        return vault.unwrap(conversation, wrapped)
    except (StoredDataError, ValueError):  # not what was sealed, or not a key
        return UnopenedKey(conversation)


def settle_master(conninfo: str, vault: Vault) -> bytes:
    """Return the salt of the derived keys; the first start with a database binds the master key to it.

    Raises `MasterKeyError` for another master key, and where there are no keys to what is stored.
    """
    with _connected(conninfo) as connection:
        _refuse_without_store(connection)
        with connection.transaction():
            return _settled(connection, vault)


def has_master(conninfo: str) -> bool:
    """Whether this database was made with a master key, and no other will do.

    Raises `MasterKeyError` where its key store is missing, or has no keys to what is stored.
    """
    with _connected(conninfo) as connection:
        _refuse_without_store(connection)
        is_bound = connection.execute("SELECT FROM keys.master").fetchone() is not None
        if not is_bound:
            _refuse_orphans(connection)
        return is_bound


def _connected(conninfo: str) -> psycopg.Connection:
    return psycopg.connect(
        conninfo, autocommit=True, application_name="minutebook keys", client_encoding="utf8"
    )


def _refuse_without_store(connection: psycopg.Connection) -> None:
    row = connection.execute("SELECT to_regclass('keys.master') IS NOT NULL").fetchone()
    if not row or not row[0]:
        raise MasterKeyError(
            reason="its key store, the schema `keys`, is missing; restore it from its backup"
        )


def _settled(connection: psycopg.Connection, vault: Vault) -> bytes:
    row = connection.execute("SELECT sealed, salt FROM keys.master").fetchone()
    if row is None:
        _refuse_orphans(connection)
        connection.execute(
            "INSERT INTO keys.master (sealed, salt) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [vault.seal(_CHECKED, _ABOUT), os.urandom(32)],
        )
        row = connection.execute("SELECT sealed, salt FROM keys.master").fetchone()
        assert row is not None  # noqa: S101 (ours, or another's who was quicker)
    try:
        vault.open(row[0], _ABOUT)
    except StoredDataError:
        raise MasterKeyError(reason="it was made with another one; give that one back to it") from None
    return bytes(row[1])


def _refuse_orphans(connection: psycopg.Connection) -> None:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM keys.conversations) OR EXISTS (SELECT FROM log"
        " WHERE position <= 1000 AND conversation <> '' AND substr(data, 1, 1) = %s)",
        [SEALED],
    ).fetchone()
    if row and row[0]:
        raise MasterKeyError(reason="what it holds was sealed with another one; restore its key store")
