"""What an auditor asks of exports: to be written, checked, taken in again, and streamed."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from application.errors import InvalidFilterError
from application.exporting import Checked, Format, IsCancelled, Manifest, OnStep, Selection
from infrastructure.audit.signing import parsed_verifiers
from infrastructure.exports import manifests, proving, selecting
from infrastructure.exports.encoding import Encoder, encoder
from infrastructure.exports.exporting import Export
from infrastructure.exports.opening import Opener, conversations_of, read_events
from infrastructure.exports.restoring import OnEvents, is_export, restore
from infrastructure.exports.told import told
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.rows import Row
from infrastructure.vault import Key, Vault

__all__ = ["Exports", "check_export", "is_export", "prove_export", "restore_export", "write_export"]

# A log is read from its beginning to its end: only keys of conversations that go on just then are used again.
_KEYS: Final = 500


def write_export(
    url: str,
    vault: Vault,
    selection: Selection,
    form: Format,
    target: Path,
    on_step: OnStep = lambda _: None,
    is_cancelled: IsCancelled = lambda: False,
    *,
    with_keys: bool = False,
) -> Manifest | None:
    """Write an export and its manifest, or what is missing of them; None where it was cancelled.

    `with_keys` writes the wrapped keys of all conversations beside it. Raises `ExportError`, and
    `InvalidFilterError` for keys beside a part of the log.
    """
    if with_keys and (selection != Selection() or form != "ndjson"):
        raise InvalidFilterError(name="with-keys", reason="keys go with a whole log in NDJSON only")
    with Opener(url, vault.smaller(_KEYS)) as opener:
        return Export(
            url, selection, form, target, opener.decode,
            on_step=on_step, is_cancelled=is_cancelled, with_keys=with_keys,
        ).run()  # fmt: skip


def check_export(manifest: Path, on_bytes: manifests.OnBytes) -> Checked:
    """Compare an export with its manifest, without a database. Raises `UncheckableError`."""
    return manifests.check(manifest, on_bytes)


def prove_export(manifest: Path, notes: Mapping[str, str], verifiers: str) -> Checked:
    """Compare the events of an export with signed checkpoints of the log, without a database.

    `notes` are the contents of files, by their names: without any it is the manifest's checkpoint.
    `verifiers` is the content of the list of public keys. Raises
    `ExportError`, and `NoteError` where something is no list of keys.
    """
    return proving.prove(manifest, notes, parsed_verifiers(verifiers))


def restore_export(url: str, vault: Vault, file: Path, on_events: OnEvents = lambda _, __, ___: None) -> int:
    """Take an export into an empty store; returns its events. Raises `RestoreError`."""
    return restore(url, file, vault, on_events)


class Exports:
    """Exports for whoever reads them over a network: a page is read when the one before it is sent."""

    def __init__(self, pool: Pool, keys: KeyStore) -> None:
        self._pool = pool
        self._keys = keys

    async def settled(self, selection: Selection) -> Selection:
        """Return the selection with its range fixed. Raises `ExportError` and `StoreUnavailableError`."""
        async with store_errors(), self._pool.connection() as connection:
            return await selecting.settled(connection, selection)

    async def stream(self, selection: Selection, form: Format) -> AsyncIterator[bytes]:
        """Yield the file piece by piece. Raises `StoreUnavailableError`, at any piece."""
        writes = await asyncio.to_thread(encoder, form)
        yield writes.begin()
        async for rows in selecting.pages(self._pool, selection):
            keys = await self._keys.keys_of(conversations_of(rows))
            if piece := await asyncio.to_thread(_written, writes, rows, keys):
                yield piece
        if piece := await asyncio.to_thread(writes.end):
            yield piece


def _written(writes: Encoder, rows: Sequence[Row], keys: Mapping[str, Key]) -> bytes:
    return writes.encode(told(rows, lambda some: read_events(some, keys)))
