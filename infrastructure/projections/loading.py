"""One part of a rebuild: the log read through COPY, folded in memory, written through COPY."""

import gc
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Final

import psycopg

from application.ports import LoggedEvent
from infrastructure.projections.advancing import FoldError, fold_one
from infrastructure.projections.checkpoints import RebuildMark
from infrastructure.projections.connecting import connect
from infrastructure.projections.read_model import ReadModel, RowKey, Rows
from infrastructure.projections.reading import readable, reading_range
from infrastructure.projections.values import ERASURE
from infrastructure.projections.writing import Store
from infrastructure.projections.yielding import Courtesy
from infrastructure.vault import Vault

RANGE: Final = 50_000  # positions between two checkpoints
_CHUNK: Final = 500  # events whose rows are looked up together
_KEPT_ROWS: Final = 150_000  # in memory beyond one range
_FIRST_EVENT: Final = "conversation.started"

# What keeps a part from going on: an event (its position, and why), or the database.
Failure = tuple[int, str] | psycopg.Error
# What a part tells the process that started it: (part, position reached, what went wrong).
Report = tuple[int, int, Failure | None]


class PartOver(Exception):  # noqa: N818 (nothing is wrong: another one does this part)
    """Another process has moved this part's checkpoint."""


@dataclass(frozen=True)
class Part:
    """Some of the conversations: how far they are loaded, and how far they are to be."""

    number: int
    position: int
    target: int


class Loader:
    """Loads one part of the conversations into the tables of a rebuild, range by range.

    A conversation whose first event was seen here has all its rows in memory; those of others are
    looked up. Memory is bounded: when too many rows are kept, all are forgotten and looked up again.
    """

    def __init__(
        self,
        model: ReadModel,
        mark: RebuildMark,
        suffix: str,
        parts: int,
        vault: Vault | None = None,
        courtesy: Courtesy | None = None,
        range_: int = RANGE,
    ) -> None:
        self.range = range_
        self._model = model
        self._vault = vault
        self._mark = mark
        self._store = Store(model, suffix)
        self._parts = parts
        self._courtesy = courtesy or Courtesy()
        self._rows = Rows()
        self._known: set[str] = set()  # conversations with all their rows in memory

    def load(self, reading: psycopg.Connection, writing: psycopg.Connection, first: int, last: int) -> None:
        """Fold the events above `first` up to `last`. Raises `FoldError`, `PartOver`."""
        types = self._model.types | {_FIRST_EVENT, ERASURE}
        stream = reading_range(reading, first, last, types, self._mark.part, self._parts)
        with stream as events, writing.transaction():
            while stored := list(islice(events, _CHUNK)):
                chunk = readable(writing, self._vault, stored)
                self._look_up(writing, chunk)
                self._fold(chunk)
                self._courtesy.look(writing)
                self._courtesy.make_way()
            _stay_with_parent()  # whoever resumes its rebuild must not find us at it
            if not self._mark.move(writing, first, last):
                raise PartOver
            self._store.bulk_write(writing, self._rows, self._courtesy.make_way)
        self._keep()

    def _look_up(self, connection: psycopg.Connection, events: Iterable[LoggedEvent]) -> None:
        rows, wanted = self._rows, set[RowKey]()
        for event in events:
            if event.type == _FIRST_EVENT:
                self._known.add(event.conversation_id)
            if event.conversation_id not in self._known and event.type in self._model.types:
                wanted.update(
                    about
                    for about in self._keys(event)
                    if about not in rows.loaded and about not in rows.changed and about not in rows.dropped
                )
        if wanted:
            rows.take(self._store.load(connection, wanted))

    def _keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        try:
            return list(self._model.keys(event))
        except Exception as error:
            raise FoldError(event.position, error) from error

    def _fold(self, events: Iterable[LoggedEvent]) -> None:
        model, rows, types = self._model, self._rows, self._model.types
        fold = model.fold
        for event in events:
            if event.type in types or event.type == ERASURE:
                try:
                    if event.type == ERASURE:
                        fold_one(model, rows, event)
                    else:
                        fold(rows, event)
                except Exception as error:
                    raise FoldError(event.position, error) from error

    def _keep(self) -> None:
        """Hold on to what was written, for the next range."""
        loaded = self._rows.loaded
        for about in self._rows.dropped:
            loaded.pop(about, None)
        loaded.update(self._rows.changed)
        if len(loaded) > _KEPT_ROWS:
            loaded, self._known = {}, set()
        self._rows = Rows(loaded)

    def forget(self) -> None:
        """Look everything up again: another process has written what we had in memory, too."""
        self._rows, self._known = Rows(), set()

    def reached(self, connection: psycopg.Connection) -> int | None:
        """Return how far the part is loaded, None where there is no such part any more."""
        return self._mark.position(connection)


def load_part(url: str, make: Callable[[], Loader], part: Part, reports: Connection) -> None:
    """Load one part up to its target: the life of a worker process. Ends when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    gc.disable()  # rows have no cycles, and there are many of them
    loader, position = make(), part.position
    failure: Failure | None = None
    try:
        _stay_with_parent()
        with connect(url, "rebuild read") as reading, connect(url, "rebuild write") as writing:
            while position < part.target:
                position = _one_range(loader, reading, writing, position, part.target)
                reports.send((part.number, position, None))
    except FoldError as error:
        failure = error.position, error.why
    except PartOver:
        failure = 0, "another process has moved its checkpoint"
    except psycopg.Error as error:
        failure = error
    if failure:
        reports.send((part.number, position, failure))


def _one_range(
    loader: Loader, reading: psycopg.Connection, writing: psycopg.Connection, position: int, target: int
) -> int:
    """Load the next range, or find it loaded; returns where it ends.

    A worker of a rebuild that was killed ends with the range at hand, and may still write it after the
    next rebuild has begun. Whose transaction moves the checkpoint first has done it.
    """
    last = min(position + loader.range, target)
    try:
        loader.load(reading, writing, position, last)
    except PartOver:
        reached = loader.reached(writing)
        if reached is None or reached <= position:
            raise
        loader.forget()
        return reached
    return last


def _stay_with_parent() -> None:
    """End this process where it is a worker and the one that started it is gone."""
    if (parent := parent_process()) and not parent.is_alive():
        sys.exit()
