"""An export, written a chunk at a time: stopped at any moment, it goes on where it was.

While it is written there is a folder `FILE.part` with the data and a state: a line of JSON for the plan and
one for every chunk that is on the disk. Whatever else a kill leaves in the data is cut off again.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

import psycopg

from application.exporting import (
    Chunk,
    ExportError,
    ExportStep,
    Format,
    IsCancelled,
    Manifest,
    OnStep,
    Selection,
)
from application.product import PRODUCT
from infrastructure.audit import seal_store
from infrastructure.exports import key_file, manifests, selecting
from infrastructure.exports.encoding import Encoder, encoder
from infrastructure.exports.state import State
from infrastructure.exports.told import Decode, Told, told
from infrastructure.postgres.connections import arguments

_DATA: Final = "data"


class Export:
    """One export of a selection to a file, in constant memory."""

    def __init__(
        self,
        url: str,
        selection: Selection,
        form: Format,
        target: Path,
        decode: Decode,
        *,
        with_keys: bool = False,
        on_step: OnStep = lambda _: None,
        is_cancelled: IsCancelled = lambda: False,
    ) -> None:
        self._url = url
        self._asked = selection
        self._form: Format = form
        self._target = target
        self._decode = decode
        self._with_keys = with_keys
        self._on_step = on_step
        self._is_cancelled = is_cancelled
        self._part = target.with_name(f"{target.name}.part")

    def run(self) -> Manifest | None:
        """Write the export, or what is missing of it; None where it was cancelled.

        Raises `ExportError` where the file is there already or belongs to another export, and
        `psycopg.Error` where the database does not answer.
        """
        if self._target.exists():
            if not (self._part.exists() and not (self._part / _DATA).exists()):
                raise ExportError(reason=f"{self._target} is there already; remove it or name another file")
            shutil.rmtree(self._part)  # it was finished, and killed while it tidied up
            return manifests.read(manifests.path_of(self._target))
        try:
            with State.held(self._part) as state:
                return self._run(state)
        except OSError as error:
            raise ExportError(reason=f"{self._target} cannot be written ({error.strerror})") from None

    def _run(self, state: State) -> Manifest | None:
        with closing(
            psycopg.Connection.connect(self._url, **arguments("minutebook export", 0))
        ) as connection:
            selection = state.begin(
                self._plan(),
                lambda: selecting.head_now(connection),
                lambda: selecting.settled_now(self._url, self._asked),
            )
            self._refuse_erased(connection, selection, state)
            write = self._write_parquet if self._form == "parquet" else self._write_lines
            if not write(connection, selection, state):
                return None
            if self._with_keys:
                key_file.write(connection, key_file.path_of(self._target))
            return self._finish(connection, selection, state)

    def _refuse_erased(self, connection: psycopg.Connection, selection: Selection, state: State) -> None:
        """What was erased since it began may stand in it: it would be an export from before, made after."""
        erased = selecting.erased_since(connection, selection, state.head)
        if erased is not None:
            raise ExportError(
                reason=f"the conversation {erased} was erased after it had begun, and {self._part} may still"
                " say what was said there; remove that folder, and export again"
            )

    def _plan(self) -> dict[str, Any]:
        asked = asdict(self._asked)
        times = {name: str(value) for name, value in asked.items() if isinstance(value, datetime)}
        return {**asked, **times, "format": self._form, "with_keys": self._with_keys}

    # --- the chunks -------------------------------------------------------------------------------

    def _write_lines(self, connection: psycopg.Connection, selection: Selection, state: State) -> bool:
        with (self._part / _DATA).open("ab") as file:
            file.truncate(state.end)
            for after, last in self._windows(selection, state):
                writes = _Writing(file, is_first=not state.chunks)
                writes.all_of(encoder(self._form), self._told(connection, selection, after, last))
                state.add(Chunk(after + 1, last, writes.count, file.tell(), writes.digest.hexdigest()))
        return not self._is_cancelled()

    def _write_parquet(self, connection: psycopg.Connection, selection: Selection, state: State) -> bool:
        for after, last in self._windows(selection, state):
            with self._piece_of(last).open("wb") as file:
                writes = _Writing(file, is_first=True)
                writes.all_of(encoder(self._form), self._told(connection, selection, after, last))
            state.add(Chunk(after + 1, last, writes.count, 0, ""))
        return not self._is_cancelled()

    def _told(
        self, connection: psycopg.Connection, selection: Selection, after: int, last: int
    ) -> Iterator[list[Told]]:
        for rows in selecting.stream(connection, selection, after, last):
            yield told(rows, self._decode)

    def _windows(self, selection: Selection, state: State) -> Iterator[tuple[int, int]]:
        end = selection.last or 0
        started_at = after = state.chunks[-1].last if state.chunks else selection.first - 1
        # Without any event there is one chunk all the same: a table has its line of names.
        while (after < end or not state.chunks) and not self._is_cancelled():
            last = selecting.window_after(selection, after, end)
            yield after, last
            after = last
            self._on_step(ExportStep("exporting", after, end, started_at))

    def _piece_of(self, last: int) -> Path:
        return self._part / f"{last:019}.parquet"

    # --- the end ----------------------------------------------------------------------------------

    def _finish(self, connection: psycopg.Connection, selection: Selection, state: State) -> Manifest:
        last = selection.last or 0
        self._on_step(ExportStep("finishing", last, last))
        data = self._part / _DATA
        chunks = self._merged(state.chunks, data) if self._form == "parquet" else state.chunks
        manifest = self._manifest(selection, chunks, data)
        self._refuse_erased(connection, selection, state)
        manifest = replace(manifest, checkpoint=seal_store.newest_note(connection, up_to=last))
        manifests.write(manifest, manifests.path_of(self._target))
        data.replace(self._target)
        shutil.rmtree(self._part)
        return manifest

    def _merged(self, chunks: Iterable[Chunk], data: Path) -> list[Chunk]:
        from infrastructure.exports.parquet import merge  # a large library

        chunks = list(chunks)
        parts = [self._piece_of(chunk.last) if chunk.count else None for chunk in chunks]
        with data.open("wb") as file:
            ends = list(merge(parts, file))
            _flush(file)
        # The footer belongs to the last chunk, as the magic before the first row group to the first.
        ends = [*ends[:-2], ends[-1]]
        return [Chunk(one.first, one.last, one.count, end, "") for one, end in zip(chunks, ends, strict=True)]

    def _manifest(self, selection: Selection, chunks: list[Chunk], data: Path) -> Manifest:
        whole, digested, start = sha256(), list[Chunk](), 0
        with data.open("rb") as file:
            for chunk in chunks:
                digest = sha256()
                for piece in manifests.pieces(file, chunk.end - start):
                    digest.update(piece)
                    whole.update(piece)
                if chunk.sha256 not in ("", digest.hexdigest()):
                    raise ExportError(reason=f"{data} was changed meanwhile; remove {self._part}")
                digested.append(Chunk(chunk.first, chunk.last, chunk.count, chunk.end, digest.hexdigest()))
                start = chunk.end
        return Manifest(
            format=self._form, file=self._target.name, bytes=start, sha256=whole.hexdigest(),
            count=sum(chunk.count for chunk in chunks), first=selection.first, last=selection.last or 0,
            conversation=selection.conversation, types=list(selection.types),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"), product=PRODUCT, chunks=digested,
        )  # fmt: skip


class _Writing:
    """One chunk on its way to the disk."""

    def __init__(self, file: BinaryIO, *, is_first: bool) -> None:
        self._file = file
        self._is_first = is_first
        self.count = 0
        self.digest = sha256()

    def all_of(self, encoder: Encoder, events: Iterable[Sequence[Told]]) -> None:
        """Write these events; what a format begins with comes before the first chunk only."""
        begin = encoder.begin()
        if self._is_first:
            self._write(begin)
        for some in events:
            self.count += len(some)
            self._write(encoder.encode(some))
        self._write(encoder.end())
        _flush(self._file)

    def _write(self, piece: bytes) -> None:
        self.digest.update(piece)
        self._file.write(piece)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
