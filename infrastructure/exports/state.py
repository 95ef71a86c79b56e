"""How far an export has got, in a file of its own: a line for its plan, and one for every chunk."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from application.exporting import Chunk, ExportError, Selection

_STATE: Final = "state"


class State:
    """The plan of an export and its chunks that are on the disk."""

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        self._file = file
        self._folder = folder
        self._plan: Mapping[str, Any] | None = None
        self._range: Mapping[str, Any] = {}
        self.head = 0  # the newest position when it was begun
        self.chunks: list[Chunk] = []
        self._read()

    @classmethod
    @contextmanager
    def held(cls, folder: Path) -> Iterator[Self]:
        """Open the state in this folder, for one process alone. Raises `ExportError` and `OSError`."""
        folder.mkdir(exist_ok=True)
        with (folder / _STATE).open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExportError(reason=f"another process is writing {folder}") from None
            yield cls(file, folder)

    @property
    def end(self) -> int:
        """How many bytes of the data are whole chunks."""
        return self.chunks[-1].end if self.chunks else 0

    def begin(
        self, plan: Mapping[str, Any], head: Callable[[], int], settle: Callable[[], Selection]
    ) -> Selection:
        """Return the range to export: the one begun before, or a new one. Raises `ExportError`."""
        asked = json.loads(json.dumps(plan))
        if self._plan is None:
            self._plan, self.head, self._range = asked, head(), asdict(settle())
            self._append({"plan": self._plan, "head": self.head, "range": self._range})
        elif asked != self._plan:
            raise ExportError(
                reason=f"{self._folder} was begun with other options; go on with those, or remove it"
            )
        return Selection(**{**self._range, "types": tuple(self._range["types"])})

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk whose bytes are on the disk."""
        self.chunks.append(chunk)
        self._append(asdict(chunk))

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> None:
        self._file.seek(0)
        whole, _, torn = self._file.read().rpartition(b"\n")
        if torn:
            self._file.truncate(len(whole) + 1 if whole else 0)
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines:
                self._plan, self._range = lines[0]["plan"], lines[0]["range"]
                self.head = lines[0]["head"]
                self.chunks = [Chunk(**line) for line in lines[1:]]
        except (ValueError, KeyError, TypeError):
            raise ExportError(reason=f"the state in {self._folder} cannot be read; remove it") from None
