"""The keys of an exported log in a file of their own, wrapped as the key store has them.

With it and the master key an export can be read again; without either it cannot.
"""

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from application.exporting import RestoreError
from infrastructure.vault import StoredDataError, Vault

_READ: Final = (
    "COPY keys.conversations (conversation, created_at, erased_at, wrapped) TO STDOUT (FORMAT binary)"
)
_WRITE: Final = (
    "COPY keys.conversations (conversation, created_at, erased_at, wrapped) FROM STDIN (FORMAT binary)"
)
_TYPES: Final = ("text", "timestamptz", "timestamptz", "bytea")


def path_of(export: Path) -> Path:
    """Return where the keys of an export are."""
    return export.with_name(f"{export.name}.keys")


def write(connection: psycopg.Connection, path: Path) -> None:
    """Write all keys to a file that nobody else can read. Raises `OSError` and `psycopg.Error`."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        with connection.cursor().copy(_READ) as copy:
            copy.set_types(_TYPES)
            for row in copy.rows():
                file.write(json.dumps(_line(*row)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _line(
    conversation: str, created_at: datetime, erased_at: datetime | None, wrapped: bytes | None
) -> dict[str, Any]:
    return {
        "conversation": conversation,
        "created_at": created_at.isoformat(),
        "erased_at": erased_at and erased_at.isoformat(),
        "wrapped": wrapped and b64encode(wrapped).decode(),
    }


def restore(connection: psycopg.Connection, path: Path, vault: Vault) -> None:
    """Put the keys of a file into an empty key store.

    Raises `RestoreError` where the file is none, or its keys belong to another master key.
    """
    try:
        with connection.cursor().copy(_WRITE) as copy:
            copy.set_types(_TYPES)
            for row in _rows(path, vault):
                copy.write_row(row)
    except psycopg.errors.UniqueViolation:
        raise RestoreError(reason=f"{path} has the key of a conversation twice") from None


def _rows(path: Path, vault: Vault) -> Iterator[tuple[Any, ...]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield _row(json.loads(line), vault)
    except StoredDataError:
        raise RestoreError(
            reason=f"the keys of {path} were wrapped with another master key;"
            " a new store needs that one from its start"
        ) from None
    except OSError as error:
        raise RestoreError(reason=f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RestoreError(reason=f"{path} is no file of keys") from None


def _row(said: dict[str, Any], vault: Vault) -> tuple[Any, ...]:
    wrapped = said["wrapped"] and b64decode(said["wrapped"], validate=True)
    vault.unwrap(said["conversation"], wrapped)
    erased_at = said["erased_at"] and datetime.fromisoformat(said["erased_at"])
    created_at = datetime.fromisoformat(said["created_at"])
    if (
        not created_at.tzinfo
        or (erased_at is None) == (wrapped is None)
        or (erased_at and not erased_at.tzinfo)
    ):
        raise ValueError
    return said["conversation"], created_at, erased_at, wrapped
