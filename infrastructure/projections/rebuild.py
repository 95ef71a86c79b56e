"""A read model built anew beside the one that answers, which it then replaces."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Final, cast

import psycopg

from domain.errors import MinutebookError
from infrastructure.projections import checkpoints
from infrastructure.projections.advancing import FoldError, fold_page
from infrastructure.projections.checkpoints import RebuildMark
from infrastructure.projections.connecting import connect
from infrastructure.projections.generations import clean, suffix
from infrastructure.projections.indexing import make_indexes
from infrastructure.projections.loading import load_part
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.reading import head_of, read_page
from infrastructure.projections.writing import Store
from infrastructure.projections.yielding import Courtesy, step_back
from infrastructure.vault import Vault

CATCH_UP: Final = -1  # the part that goes on where the loading ended
_NEAR: Final = 500  # events that may be left for the transaction of the swap
_SWAP_WAIT_MS: Final = 50  # for how long a swap may hold up readers while it waits for others
_POLL_S: Final = 0.2


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
    ) -> None:
        self._url = url
        self._model = model
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
            clean(connection, self._model)
            self._tell("done", position, position)
            return position

    @contextmanager
    def locked(self) -> Iterator[psycopg.Connection]:
        """Give a connection that holds the right to rebuild."""
        with connect(self._url, "rebuild") as connection:
            if not checkpoints.try_lock(connection, "rebuild", self._model.name):
                raise RebuildRunningError(name=self._model.name)
            try:
                yield connection
            finally:
                # A closed connection keeps its locks for a moment, and the next rebuild may begin at once.
                with suppress(psycopg.Error):
                    checkpoints.unlock(connection, "rebuild", self._model.name)

    def _resumed(self, connection: psycopg.Connection) -> int | None:
        """Return the generation that an earlier run has left, where it is of this version and whole."""
        clean(connection, self._model)
        row = connection.execute(
            "SELECT generation FROM rebuilds WHERE name = %s AND part = 0", [self._model.name]
        ).fetchone()
        return int(row[0]) if row else None

    def begin(self, connection: psycopg.Connection, target: int) -> int:
        """Make new tables, to be loaded up to `target`; returns their generation."""
        name, version = self._model.name, self._model.version
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
        self._indexed(connection, generation)
        return True

    def _at(self, connection: psycopg.Connection, part: int) -> int | None:
        row = connection.execute(
            "SELECT position FROM rebuilds WHERE name = %s AND part = %s", [self._model.name, part]
        ).fetchone()
        return int(row[0]) if row else None

    def _loaded(self, connection: psycopg.Connection, generation: int) -> bool:
        parts = connection.execute(
            "SELECT part, position, target FROM rebuilds WHERE name = %s AND part >= 0 ORDER BY part",
            [self._model.name],
        ).fetchall()
        reached = {part: position for part, position, _ in parts}
        target = max(target for _, _, target in parts)
        self._began_at = sum(reached.values()) // len(parts)
        with self._working(generation, parts) as reports:
            while min(reached.values()) < target:
                if self._is_cancelled():
                    return False
                self._hear(reports, reached, target)
                self._courtesy.look(connection)
                self._tell("loading", sum(reached.values()) // len(parts), target)
        return True

    @contextmanager
    def _working(self, generation: int, parts: list[Any]) -> Iterator[dict[Connection, int]]:
        """Run a process for each part; none is left behind, and none needs to be heard out."""
        context = get_context("forkserver")
        processes, reports = [], dict[Connection, int]()
        for part, position, target in parts:
            ours, theirs = context.Pipe(duplex=False)
            mark = RebuildMark(self._model.name, part, generation)
            given = (self._url, self._model, mark, suffix(generation), len(parts), position, target, theirs)
            process = context.Process(
                target=load_part, args=(*given, self._vault, self._courtesy), daemon=True
            )
            process.start()
            step_back(process.pid)  # requests come first, also before all that it imports
            theirs.close()  # so that we see the end when the process is gone
            processes.append(process)
            reports[ours] = part
        try:
            yield reports
        finally:
            for process in processes:
                process.terminate()
                process.join()
            for ours in reports:
                ours.close()

    def _hear(self, reports: dict[Connection, int], reached: dict[int, int], target: int) -> None:
        for ready in wait(list(reports), timeout=_POLL_S):
            connection = cast("Connection", ready)
            try:
                part, position, failure = connection.recv()
                reached[part] = position
            except EOFError:
                part, failure = reports.pop(connection), None
                if reached[part] < target:
                    failure = (0, "a worker process has died")
            if failure:
                raise RebuildError(name=self._model.name, reason=_reason(*failure))

    def _indexed(self, connection: psycopg.Connection, generation: int) -> None:
        target = self._at_target(connection)
        self._tell("indexing", target, target)
        store = Store(self._model, suffix(generation))
        make_indexes(self._url, store, self._workers, is_hurried=not self._courtesy.is_needed)
        connection.execute(
            "INSERT INTO rebuilds (name, part, version, generation, target, position)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [self._model.name, CATCH_UP, self._model.version, generation, target, target],
        )

    def _at_target(self, connection: psycopg.Connection) -> int:
        row = connection.execute("SELECT max(target) FROM rebuilds WHERE name = %s", [self._model.name])
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
        mark = RebuildMark(self._model.name, CATCH_UP, generation)
        try:
            reached = fold_page(connection, self._model, Store(self._model, suffix(generation)), mark, page)
        except FoldError as failure:
            raise RebuildError(name=self._model.name, reason=str(failure)) from failure
        if reached is None:
            raise RebuildError(name=self._model.name, reason="another process has moved its checkpoint")
        return reached

    def _swapped(self, connection: psycopg.Connection, generation: int) -> int:
        """Swap as soon as nobody has to wait for it; returns the position at the swap."""
        while True:
            try:
                return self._swap(connection, generation)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 (so that we do not meet again)
                self._caught_up(connection, generation)

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
