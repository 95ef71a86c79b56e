"""What an auditor asks of exports: to be written, checked, taken in again, and streamed."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from application.exporting import Checked, Format, IsCancelled, Manifest, OnStep, Selection
from application.ports import LoggedEvent
from infrastructure.audit.signing import parsed_verifiers
from infrastructure.exports import manifests, proving, selecting
from infrastructure.exports.encoding import Decode, Encoder, each, encoder, told
from infrastructure.exports.exporting import Export
from infrastructure.exports.restoring import OnEvents, is_export, restore
from infrastructure.postgres.key_store import keys_now, opened
from infrastructure.postgres.log import Row
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.vault import StoredDataError, Vault

__all__ = ["Exports", "check_export", "is_export", "prove_export", "restore_export", "write_export"]


def write_export(
    url: str,
    selection: Selection,
    form: Format,
    target: Path,
    on_step: OnStep,
    is_cancelled: IsCancelled,
    vault: Vault | None = None,
) -> Manifest | None:
    """Write an export and its manifest, or what is missing of them; None where it was cancelled.

    Raises `ExportError`.
    """
    decode = _opening(url, vault) if vault else each(MinutesMapper().to_logged)
    return Export(url, selection, form, target, decode, on_step=on_step, is_cancelled=is_cancelled).run()


def check_export(manifest: Path, on_bytes: manifests.OnBytes) -> Checked:
    """Compare an export with its manifest, without a database. Raises `ExportError`."""
    return manifests.check(manifest, on_bytes)


def prove_export(manifest: Path, notes: Mapping[str, str], verifiers: str) -> Checked:
    """Compare the events of an export with signed checkpoints of the log, without a database.

    `notes` are the contents of files, by their names; `verifiers` that of the list of public keys. Raises
    `ExportError`, and `NoteError` where something is no list of keys.
    """
    return proving.prove(manifest, notes, parsed_verifiers(verifiers))


def restore_export(url: str, file: Path, on_events: OnEvents) -> int:
    """Take an export into an empty store; returns its events. Raises `RestoreError`."""
    return restore(url, file, on_events)


def _opening(url: str, vault: Vault) -> Decode:
    """Return what opens rows and decodes them; one that cannot be read is None."""
    to_logged = MinutesMapper().to_logged

    def decode(rows: Sequence[Row]) -> Sequence[LoggedEvent | None]:
        keys = keys_now(url, vault, {row.conversation for row in rows if row.conversation})

        def opened_and_decoded(row: Row) -> LoggedEvent:
            try:
                return to_logged(opened(row, keys))
            except StoredDataError as error:
                raise ValueError(str(error)) from None

        return each(opened_and_decoded)(rows)

    return decode


class Exports:
    """Exports for whoever reads them over a network: a page is read when the one before it is sent."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self._pool = pool
        self._decode = _opening(str(pool.conninfo), vault)

    async def settled(self, selection: Selection) -> Selection:
        """Return the selection with its range fixed. Raises `ExportError` and `StoreUnavailableError`."""
        async with store_errors(), self._pool.connection() as connection:
            return await selecting.settled(connection, selection)

    async def stream(self, selection: Selection, form: Format) -> AsyncIterator[bytes]:
        """Yield the file piece by piece. Raises `StoreUnavailableError`, at any piece."""
        writes = await asyncio.to_thread(encoder, form)
        yield writes.begin()
        async for rows in selecting.pages(self._pool, selection):
            if piece := await asyncio.to_thread(self._written, writes, rows):
                yield piece
        if piece := await asyncio.to_thread(writes.end):
            yield piece

    def _written(self, writes: Encoder, rows: Sequence[Row]) -> bytes:
        return writes.encode(told(rows, self._decode))
