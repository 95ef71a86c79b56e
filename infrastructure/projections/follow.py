"""The read models that follow the log: hosted by every process, each run by one of them."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

import psycopg

from domain.errors import MinutebookError
from infrastructure.postgres.notifier import CHANNEL
from infrastructure.projections import checkpoints
from infrastructure.projections.advancing import FoldError, fold_page
from infrastructure.projections.checkpoints import LiveMark
from infrastructure.projections.connecting import connect
from infrastructure.projections.generations import clean
from infrastructure.projections.operating import make_tables
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.reading import PAGE_EVENTS, Page, read_page
from infrastructure.projections.rebuild import Rebuild, RebuildRunningError
from infrastructure.projections.writing import Store
from infrastructure.vault import Vault

_log = logging.getLogger(__name__)
_POLL_S: Final = 0.2
# Under load a moment's wait makes a page of many events, which costs little more than one of few: the
# requests of this process come first, and its read models take a third of a processor at most.
_GATHER_S: Final = 0.02
_LONGEST_GATHER_S: Final = 0.1
_CLAIM_S: Final = 1.0  # how often a process asks for what another one runs
_RECONNECT_S: Final = 1.0
_STATEMENT_S: Final = 60.0
# All read models of this process are behind one that waits for a lock.
_LOCK_S: Final = 1.0
_SOON_S: Final = 5.0  # after what may be over soon: a lock, a full disk, a statement that somebody cancelled
# SQLSTATEs of the database's own troubles that are one read model's all the same, while the connection lives:
# of resources (a full disk), of locks, and a statement that was cancelled or took too long.
_PASSING: Final = ("53", "55", "57014")


class LagMetrics(Protocol):
    """What is counted of the read models. `lag` is events."""

    def projection_at(self, name: str, lag: int, is_failed: bool, failed_position: int | None) -> None: ...


class _Hosted:
    """A read model that this process runs."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.store = Store(model)
        self.mark = LiveMark(model.name, model.version)
        self.position: int | None = None  # None: to be looked up
        self.resting_until = 0.0
        self.rebuilding: threading.Thread | None = None

    def rest(self, seconds: float) -> None:
        self.position = None
        self.resting_until = time.monotonic() + seconds

    @property
    def is_resting(self) -> bool:
        return time.monotonic() < self.resting_until


class Projector:
    """Lets the read models follow the log, in a thread with one connection.

    The connection holds a lock for each read model that this process runs; what others run it asks
    for again every second. A fold that raises stops its own read model, which is tried again every
    `retry_s` seconds. One whose fold has a newer version is rebuilt while its old tables answer.
    """

    def __init__(
        self,
        url: str,
        models: Sequence[ReadModel],
        metrics: LagMetrics | None = None,
        retry_s: float = 30.0,
        vault: Vault | None = None,
    ) -> None:
        self._url = url
        self._models = models
        self._metrics = metrics
        self._retry_s = retry_s
        self._vault = vault
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="projections", daemon=True)
        self._hosted: dict[str, _Hosted] = {}
        self._page = Page(0, 0, ())

    async def start(self) -> None:
        """Make the tables that are missing, so that queries find them, and start to follow.

        The database need not be there yet.
        """
        with contextlib.suppress(psycopg.Error, OSError):
            await asyncio.to_thread(make_tables, self._url, self._models)
        self._thread.start()

    async def stop(self) -> None:
        """Stop after the page at hand; an unfinished rebuild is resumed by whoever comes next."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._connected() as connection:
                    self._follow(connection)
            except (psycopg.Error, OSError) as error:
                _log.warning("the read models wait for the database: %s", type(error).__name__)
                self._stopping.wait(_RECONNECT_S)
            except Exception:  # noqa: BLE001 - whatever it is, the read models go on
                _log.exception("the read models have met what nobody thought of; they go on")
                self._stopping.wait(_RECONNECT_S)
            finally:
                self._let_go()

    def _connected(self) -> psycopg.Connection:
        return connect(self._url, "projections", statement_timeout_s=_STATEMENT_S, lock_timeout_s=_LOCK_S)

    def _let_go(self) -> None:
        for hosted in self._hosted.values():
            if hosted.rebuilding and self._stopping.is_set():
                hosted.rebuilding.join()
        self._hosted = {}

    def _follow(self, connection: psycopg.Connection) -> None:
        connection.execute(f"LISTEN {CHANNEL}".encode())
        claim_at = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= claim_at:
                self._claim(connection)
                self._report(connection)
                claim_at = time.monotonic() + _CLAIM_S
            began = time.monotonic()
            moved = [self._step(connection, hosted) for hosted in list(self._hosted.values())]
            if any(moved) and len(self._page.events) < PAGE_EVENTS:
                took = time.monotonic() - began
                self._stopping.wait(min(max(_GATHER_S, 2 * took), _LONGEST_GATHER_S))
            elif not any(moved):
                for _ in connection.notifies(timeout=_POLL_S, stop_after=1):
                    pass

    def _claim(self, connection: psycopg.Connection) -> None:
        """Ask for the read models that nobody here runs."""
        for model in self._models:
            if model.name not in self._hosted and checkpoints.try_lock(connection, "follow", model.name):
                self._hosted[model.name] = _Hosted(model)

    def _report(self, connection: psycopg.Connection) -> None:
        if self._metrics:
            for row in checkpoints.overview(connection):
                is_failed = row["state"] == "failed"
                self._metrics.projection_at(row["name"], row["lag"], is_failed, row["failed_position"])

    def _step(self, connection: psycopg.Connection, hosted: _Hosted) -> bool:
        """Fold a page; False where there is nothing to do for this one now."""
        if hosted.is_resting or (hosted.rebuilding and hosted.rebuilding.is_alive()):
            return False
        try:
            return self._advance(connection, hosted)
        except FoldError as failure:
            self._stop(connection, hosted, failure.position, failure.why)
        except psycopg.Error as error:
            if connection.closed:
                raise
            is_passing = (error.sqlstate or "").startswith(_PASSING)
            if isinstance(error, psycopg.OperationalError) and not is_passing:
                raise
            self._stop(connection, hosted, None, str(error))
            if is_passing:
                hosted.rest(min(self._retry_s, _SOON_S))
        return False

    def _stop(self, connection: psycopg.Connection, hosted: _Hosted, position: int | None, why: str) -> None:
        """Say that this read model has stopped, and why, and let it rest; the others go on."""
        _log.error("the read model %s has stopped at position %s: %s", hosted.model.name, position, why)
        hosted.rest(self._retry_s)
        self._page = Page(0, 0, ())  # it is read anew: what it says may be erased by then
        try:
            checkpoints.fail(connection, hosted.model.name, position, why)
        except psycopg.Error:  # what stopped it may keep us from noting it, too
            if connection.closed:
                raise

    def _advance(self, connection: psycopg.Connection, hosted: _Hosted) -> bool:
        if hosted.position is None and not self._is_ready(connection, hosted):
            return False
        assert hosted.position is not None  # noqa: S101 (it is ready)
        page = self._next_page(connection, hosted.position)
        if page.last == page.after:
            return False
        # None: it was swapped, or another has moved it: look where it is now.
        hosted.position = fold_page(connection, hosted.model, hosted.store, hosted.mark, page)
        return True

    def _next_page(self, connection: psycopg.Connection, after: int) -> Page:
        """Return the page behind this position: read once for all read models that are there."""
        if self._page.after != after or self._page.last == after:
            self._page = read_page(connection, after, vault=self._vault)
        return self._page

    def _is_ready(self, connection: psycopg.Connection, hosted: _Hosted) -> bool:
        """Look where it is; False where it has to be rebuilt first, or is newer than this program."""
        self._tidy(connection, hosted.model)
        found = checkpoints.make_sure(connection, hosted.model)
        if found.version == hosted.model.version:
            hosted.position = found.position
            return True
        if found.version < hosted.model.version:
            checkpoints.note_rebuilding(connection, hosted.model.name)
            hosted.rebuilding = threading.Thread(target=self._rebuild, args=(hosted,), daemon=True)
            hosted.rebuilding.start()
        else:  # a newer program has been here, and will be again
            hosted.rest(self._retry_s)
        return False

    def _tidy(self, connection: psycopg.Connection, model: ReadModel) -> None:
        """Drop what a killed rebuild has left of a swap or of another version."""
        if checkpoints.try_lock(connection, "rebuild", model.name):
            try:
                clean(connection, model)
            finally:
                with contextlib.suppress(psycopg.Error):
                    checkpoints.unlock(connection, "rebuild", model.name)

    def _rebuild(self, hosted: _Hosted) -> None:
        """Rebuild in the background, with one worker: the requests come first."""
        try:
            Rebuild(
                self._url, hosted.model, workers=1, is_cancelled=self._stopping.is_set, vault=self._vault
            ).run()
        except RebuildRunningError:
            hosted.rest(_CLAIM_S)
        except (MinutebookError, psycopg.Error, OSError) as error:
            _log.error("the read model %s stays as it was: %s", hosted.model.name, error)
            with contextlib.suppress(psycopg.Error), connect(self._url, "projections") as connection:
                checkpoints.fail(connection, hosted.model.name, None, str(error))
            hosted.rest(self._retry_s)
