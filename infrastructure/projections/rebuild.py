"""A read model built anew beside the one that answers, which it then replaces."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import psycopg

from domain.errors import MinutebookError
from infrastructure.projections import checkpoints
from infrastructure.projections.advancing import FoldError, fold_page
from infrastructure.projections.checkpoints import RebuildMark
from infrastructure.projections.connecting import connect
from infrastructure.projections.generations import clean, compared, suffix
from infrastructure.projections.indexing import make_indexes
from infrastructure.projections.loading import RANGE, Failure, Loader, Part
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.reading import head_of, read_page
from infrastructure.projections.workers import Workers
from infrastructure.projections.writing import Store
from infrastructure.projections.yielding import Courtesy, pauses
from infrastructure.vault import Vault

CATCH_UP: Final = -1  # the part that goes on where the loading ended
_NEAR: Final = 500  # events that may be left for the transaction of the swap
_SWAP_WAIT_MS: Final = 50  # for how long a swap may hold up readers while it waits for others
_LOCK_WAIT_S: Final = 1.0
_POLL_S: Final = 0.1


class RebuildError(MinutebookError):
    """The rebuild of {name} has stopped: {reason}."""

    code = "rebuild_failed"


class RebuildRunningError(MinutebookError):
    """{name} is being rebuilt by another process."""

    code = "rebuild_running"


@dataclass(frozen=True)
class Progress:
    """How far a rebuild is. `phase`: loading, indexing, catching_up, swapping or done."""

    name: str
    phase: str
    position: int
    target: int
    started_at: int  # the position where this run began


OnProgress = Callable[[Progress], None]


def _ignore(_: Progress) -> None:
    return None


def _never() -> bool:
    return False


class Rebuild:
    """One rebuild of one read model, in its own connection, resumed where an earlier one was killed.

    Raises `RebuildRunningError` when another process is at it, `RebuildError` when an event cannot be
    folded, `psycopg.Error` when the database does not answer; what was built then stays, to be resumed.
    """

    def __init__(
        self,
        url: str,
        model: ReadModel,
        *,
        workers: int = 2,
        on_progress: OnProgress = _ignore,
        is_cancelled: Callable[[], bool] = _never,
        vault: Vault | None = None,
        range_: int = RANGE,
    ) -> None:
        self._url = url
        self._model = model
        self._name = model.name  # under which it notes how far it is
        self._range = range_
        self._workers = workers
        self._vault = vault
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._began_at = 0
        self._courtesy = Courtesy()

    def run(self) -> int:
        """Build, catch up and swap; returns the position at the swap, or -1 where it was cancelled."""
        with self.locked() as connection:
            self._courtesy.look(connection)  # the workers have something to compare their first look with
            checkpoints.make_sure(connection, self._model)
            generation = self._resumed(connection) or self.begin(connection, head_of(connection))
            if not (self.build(connection, generation) and self._caught_up(connection, generation)):
                return -1
            position = self._swapped(connection, generation)
            if position is None:
                return -1
            clean(connection, self._model)
            self._tell("done", position, position)
            return position

    @contextmanager
    def locked(self) -> Iterator[psycopg.Connection]:
        """Give a connection that holds the right to rebuild."""
        with connect(self._url, "rebuild") as connection:
            self._lock(connection)
            try:
                yield connection
            finally:
                # A closed connection keeps its locks for a moment, and the next rebuild may begin at once.
                with suppress(psycopg.Error):
                    checkpoints.unlock(connection, "rebuild", self._model.name)

    def _lock(self, connection: psycopg.Connection) -> None:
        """Take the right to rebuild; whoever only tidies up gives it back in a moment."""
        until = time.monotonic() + _LOCK_WAIT_S
        while not checkpoints.try_lock(connection, "rebuild", self._model.name):
            if time.monotonic() > until:
                raise RebuildRunningError(name=self._model.name)
            time.sleep(_POLL_S)

    def for_comparison(self) -> Self:
        """Return the same for tables that never take over: what it notes is no rebuild's to resume."""
        other = copy(self)
        other._name = compared(self._model.name)  # noqa: SLF001 (it is one of us)
        return other

    def _resumed(self, connection: psycopg.Connection) -> int | None:
        """Return the generation that an earlier run has left, where it is of this version and whole."""
        clean(connection, self._model)
        row = connection.execute(
            "SELECT generation FROM rebuilds WHERE name = %s AND part = 0", [self._name]
        ).fetchone()
        return int(row[0]) if row else None

    def begin(self, connection: psycopg.Connection, target: int) -> int:
        """Make new tables, to be loaded up to `target`; returns their generation."""
        name, version = self._name, self._model.version
        with connection.transaction():
            row = connection.execute("SELECT nextval('projection_generations')").fetchone()
            generation = int(row[0]) if row else 0
            Store(self._model, suffix(generation)).create(connection, vacuumed=False)
            connection.execute(
                "INSERT INTO rebuilds (name, part, version, generation, target)"
                " SELECT %s, part, %s, %s, %s FROM generate_series(0, %s) AS p (part)",
                [name, version, generation, target, self._workers - 1],
            )
        return generation

    def build(self, connection: psycopg.Connection, generation: int) -> bool:
        """Load and index; False where it was cancelled."""
        if self._at(connection, CATCH_UP) is not None:
            return True  # an earlier run has done it
        if not self._loaded(connection, generation):
            return False
        return self._indexed(connection, generation)

    def _at(self, connection: psycopg.Connection, part: int) -> int | None:
        row = connection.execute(
            "SELECT position FROM rebuilds WHERE name = %s AND part = %s", [self._name, part]
        ).fetchone()
        return int(row[0]) if row else None

    def _loaded(self, connection: psycopg.Connection, generation: int) -> bool:
        parts = self._parts(connection)
        target = max(part.target for part in parts)
        workers = Workers(parts)
        makers = [(part, self._loader(part, generation, len(parts))) for part in parts]
        self._began_at = workers.position
        with workers.at_work(self._url, makers):
            while not workers.are_done:
                if self._is_cancelled():
                    return False
                if failure := workers.hear():
                    raise self._stopped_by(failure)
                self._courtesy.look(connection)
                self._tell("loading", workers.position, target)
        return True

    def _stopped_by(self, failure: Failure) -> Exception:
        if isinstance(failure, psycopg.Error):
            return failure
        return RebuildError(name=self._model.name, reason=_reason(*failure))

    def _parts(self, connection: psycopg.Connection) -> list[Part]:
        rows = connection.execute(
            "SELECT part, position, target FROM rebuilds WHERE name = %s AND part >= 0 ORDER BY part",
            [self._name],
        )
        return [Part(*row) for row in rows.fetchall()]

    def _loader(self, part: Part, generation: int, parts: int) -> Callable[[], Loader]:
        """Return what makes a loader, in whichever process."""
        mark = RebuildMark(self._name, part.number, generation)
        given = (self._model, mark, suffix(generation), parts, self._vault, self._courtesy, self._range)
        return partial(Loader, *given)

    def _indexed(self, connection: psycopg.Connection, generation: int) -> bool:
        target = self._at_target(connection)
        self._tell("indexing", target, target)
        store = Store(self._model, suffix(generation))
        is_hurried = not self._courtesy.is_needed
        if not make_indexes(self._url, store, self._workers, is_hurried, self._is_cancelled):
            return False
        connection.execute(
            "INSERT INTO rebuilds (name, part, version, generation, target, position)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [self._name, CATCH_UP, self._model.version, generation, target, target],
        )
        return True

    def _at_target(self, connection: psycopg.Connection) -> int:
        row = connection.execute("SELECT max(target) FROM rebuilds WHERE name = %s", [self._name])
        return int((row.fetchone() or [0])[0])

    def _caught_up(self, connection: psycopg.Connection, generation: int) -> bool:
        """Fold what has come since the loading, until little is left; False where it was cancelled."""
        position = self._at(connection, CATCH_UP) or 0
        while (head := head_of(connection)) - position > _NEAR:
            if self._is_cancelled():
                return False
            self._tell("catching_up", position, head)
            position = self._advanced(connection, generation, position, head)
        return True

    def fold_up_to(self, connection: psycopg.Connection, generation: int, last: int) -> int:
        """Fold all up to this position, in the caller's transaction; returns the position reached."""
        position = self._at(connection, CATCH_UP) or 0
        while position < last:
            position = self._advanced(connection, generation, position, last)
        return position

    def _advanced(self, connection: psycopg.Connection, generation: int, position: int, last: int) -> int:
        page = read_page(connection, position, last, vault=self._vault)
        mark = RebuildMark(self._name, CATCH_UP, generation)
        try:
            reached = fold_page(connection, self._model, Store(self._model, suffix(generation)), mark, page)
        except FoldError as failure:
            raise RebuildError(name=self._model.name, reason=str(failure)) from failure
        if reached is None:
            raise RebuildError(name=self._model.name, reason="another process has moved its checkpoint")
        return reached

    def _swapped(self, connection: psycopg.Connection, generation: int) -> int | None:
        """Swap as soon as nobody has to wait for it; returns the position, None where it was cancelled.

        Each try may hold up for a moment who comes after a long query: they become rarer.
        """
        for pause in pauses():
            if self._is_cancelled():
                break
            try:
                return self._swap(connection, generation)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                self._wait(pause)
                self._caught_up(connection, generation)
        return None

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_cancelled():
            time.sleep(min(left, _POLL_S))

    def _swap(self, connection: psycopg.Connection, generation: int) -> int:
        name = self._model.name
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {_SWAP_WAIT_MS}")
            # Holds the one who follows the log off: what stands in its tables now stands in ours too.
            connection.execute("SELECT FROM projections WHERE name = %s FOR UPDATE", [name])
            head = head_of(connection)
            self._tell("swapping", head, head)
            position = self.fold_up_to(connection, generation, head)
            # The old tables take the name of generation 0, by which `clean` finds them.
            Store(self._model, suffix(generation)).take_over(connection, suffix(0))
            connection.execute("DELETE FROM rebuilds WHERE name = %s", [name])
            connection.execute(
                "UPDATE projections SET version = %s, position = %s, state = 'following',"
                " failed_position = NULL, error = NULL, updated_at = clock_timestamp() WHERE name = %s",
                [self._model.version, position, name],
            )
        return position

    def _tell(self, phase: str, position: int, target: int) -> None:
        self._on_progress(Progress(self._model.name, phase, position, target, self._began_at))


def _reason(position: int, why: str) -> str:
    return f"the event at position {position} cannot be folded: {why}" if position else why
