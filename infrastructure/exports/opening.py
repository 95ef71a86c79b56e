"""Sealed rows, opened for an export: what cannot be opened or read is exported all the same, and says so."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

import psycopg

from application.ports import LoggedEvent
from infrastructure.exports.told import Decode
from infrastructure.postgres import key_store
from infrastructure.postgres.connections import arguments
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.rows import CANNOT_BE_READ, Row
from infrastructure.vault import Key, NoKey, StoredDataError, Vault

_mapper = MinutesMapper()


def read_events(rows: Sequence[Row], keys: Mapping[str, Key]) -> list[LoggedEvent | None]:
    """Return the events of these rows, None for one that cannot be opened or read."""
    return [_read(row, keys) for row in rows]


def _read(row: Row, keys: Mapping[str, Key]) -> LoggedEvent | None:
    try:
        return _mapper.to_logged(key_store.opened(row, keys))
    except CANNOT_BE_READ:
        return None


def conversations_of(rows: Sequence[Row]) -> set[str]:
    """Return whose keys these rows take."""
    return {row.conversation for row in rows if row.conversation}


class Opener(AbstractContextManager["Opener"]):
    """Opens rows with a connection of its own for the keys, for the length of a block."""

    def __init__(self, url: str, vault: Vault) -> None:
        self._vault = vault
        self._connection: psycopg.Connection = psycopg.Connection.connect(
            url, **arguments("minutebook export", 0)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def decode(self) -> Decode:
        """Return what opens and decodes rows. It raises `psycopg.Error`."""
        return lambda rows: read_events(rows, self._keys_of(conversations_of(rows)))

    def _keys_of(self, conversations: Collection[str]) -> Mapping[str, Key]:
        try:
            return key_store.keys_of(self._connection, self._vault, conversations)
        except StoredDataError:  # one of them is not what was kept; the others are
            return {one: self._key_of(one) for one in conversations}

    def _key_of(self, conversation: str) -> Key:
        try:
            return key_store.keys_of(self._connection, self._vault, [conversation])[conversation]
        except StoredDataError:
            return NoKey(conversation)
