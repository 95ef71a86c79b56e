"""The append: saves that arrive together are stored together, each for itself."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any

import psycopg

from application.errors import ConflictError, StoreUnavailableError, TurnLostError
from domain.errors import MinutebookError
from infrastructure.postgres.batch import (
    APPEND_NUMBERED,
    TYPES,
    NewEvent,
    Save,
    Snapshot,
    Status,
    Stored,
    parameters,
)
from infrastructure.postgres.connections import arguments
from infrastructure.postgres.notifier import Notifier
from infrastructure.postgres.settling import settle
from infrastructure.postgres.wire import Wire

__all__ = ["Appender", "NewEvent", "Save", "Snapshot", "Stored"]

_log = logging.getLogger(__name__)
_REFUSALS: dict[int, type[MinutebookError]] = {Status.CONFLICT: ConflictError, Status.FENCED: TurnLostError}
# The server found fault with what it was given: its SQLSTATE begins with one of these.
_DATA_ERRORS = ("21", "22", "23", "54")
# Two transactions waited for each other, and the server chose ours to give way.
_COLLISIONS = ("40",)
LAST_HINT_S = 1.0  # for how long an end waits until readers are told of what was stored last

Outcome = Stored | MinutebookError


class _Waiting:
    """A save and whoever waits for it."""

    __slots__ = ("answer", "save", "size", "streams")

    def __init__(self, save: Save) -> None:
        self.save = save
        self.streams = save.streams
        self.size = save.size
        self.answer: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()

    def resolve(self, outcome: Outcome) -> None:
        if self.answer.done():  # nobody waits any more
            return
        if isinstance(outcome, Stored):
            self.answer.set_result(outcome)
        else:
            self.answer.set_exception(outcome)


class _BrokenError(Exception):
    """The connection broke while the server had the batch: nobody knows what became of it."""


class Appender:
    """Appends to the log, one batch at a time, on one connection of its own.

    What arrives while a batch is being written makes up the next one, so a save that comes alone
    waits for nothing. Times are seconds. `on_batch` is told how many saves each batch stored.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        settle_s: float = 10.0,
        statement_timeout_s: float = 10.0,
        batch_saves: int = 256,
        batch_bytes: int = 4 * 1024 * 1024,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._settle_s = settle_s
        self._statement_timeout_s = statement_timeout_s
        self._batch_saves = batch_saves
        self._batch_bytes = batch_bytes
        self._on_batch = on_batch
        self._queue: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._connection: psycopg.AsyncConnection | None = None
        self._notifier = Notifier(conninfo)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Start to append; the database need not be there yet."""
        self._tasks = [self._task(self._run()), self._task(self._notifier.run())]

    async def append(self, save: Save) -> Stored:
        """Store the save, whole.

        Raises `ConflictError` when a stream is not at its expected version, `TurnLostError` when the
        turn is not this node's running one any more, `StoreUnavailableError` when the database
        does not answer, `ValueError` for versions that do not follow. Whoever stops waiting does
        not stop the append.
        """
        save.validate()
        if self._stopping or not self._tasks:
            raise StoreUnavailableError
        waiting = _Waiting(save)
        self._queue.append(waiting)
        self._news.set()
        return await waiting.answer

    async def stop(self) -> None:
        """Store what was given, then close the connections."""
        self._stopping = True
        self._news.set()
        if self._tasks:
            appending, notifying = self._tasks
            await appending
            self._notifier.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(notifying, LAST_HINT_S)
        await self._disconnect()

    @staticmethod
    def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def _run(self) -> None:
        while self._queue or not self._stopping:
            if not self._queue:
                self._news.clear()
                await self._news.wait()
                continue
            batch = self._take()
            try:
                await self._write(batch)
            except Exception:  # noqa: BLE001 - whatever it is, the next batch is to be written
                _log.exception("a batch failed in a way nobody thought of")
                self._answer(batch, [StoreUnavailableError()] * len(batch))
                await self._disconnect()

    def _take(self) -> list[_Waiting]:
        """Take the next batch; of saves that share a stream only the first is in it."""
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        streams: set[str] = set()
        size = 0
        while self._queue and len(batch) < self._batch_saves and size < self._batch_bytes:
            waiting = self._queue.popleft()
            (batch if streams.isdisjoint(waiting.streams) else passed).append(waiting)
            streams |= waiting.streams
            size += waiting.size
        self._queue.extendleft(reversed(passed))
        return batch

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        saves = [waiting.save for waiting in batch]
        try:
            outcomes = await self._append(saves)
        except psycopg.Error as error:
            if len(batch) > 1 and _is_of_class(error, _DATA_ERRORS + _COLLISIONS):
                for waiting in batch:  # one of them is to blame, and its neighbours are not
                    await self._write([waiting])
                return
            outcomes = [await self._refused(error)] * len(batch)
        self._answer(batch, outcomes)

    def _give_up(self) -> None:
        """Let nobody wait for a database that is not there: none of this was ever sent."""
        while self._queue:
            self._queue.popleft().resolve(StoreUnavailableError())

    def _answer(self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.resolve(outcome)
        stored = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        if stored:
            self._notifier.tell(max(outcome.last_position or 0 for outcome in stored))
            if self._on_batch is not None:
                self._on_batch(len(stored))

    async def _refused(self, error: psycopg.Error) -> MinutebookError:
        """Return what to answer where the server said no: it has rolled the batch back."""
        _log.warning("an append was refused by the database: %s %s", type(error).__name__, error.sqlstate)
        if isinstance(error, psycopg.errors.UniqueViolation):
            return ConflictError()
        if _is_of_class(error, _DATA_ERRORS):
            return MinutebookError()
        await self._disconnect()  # the next batch finds the server that can write
        return StoreUnavailableError()

    async def _append(self, saves: Sequence[Save]) -> list[Outcome]:
        """Append, and after a broken connection ask what became of it before going on."""
        deadline = asyncio.get_running_loop().time() + self._settle_s
        connection = await self._reconnected(deadline)
        if connection is None:
            self._give_up()
            return [StoreUnavailableError()] * len(saves)
        try:
            return await self._execute(connection, saves)
        except _BrokenError:
            return await self._settled(saves, deadline)

    async def _settled(self, saves: Sequence[Save], deadline: float) -> list[Outcome]:
        """Find out what is stored and repeat the rest, until it is certain or time has run out.

        A repetition is refused where the lost statement came through after all; so a refusal only
        counts once the save is known not to be in the log.
        """
        outcomes: list[Outcome | None] = [None] * len(saves)
        while (connection := await self._reconnected(deadline)) is not None:
            try:
                self._wire.release()
                found = await settle(connection, saves)
                outcomes = [stored or outcome for stored, outcome in zip(found, outcomes, strict=True)]
                if None not in outcomes:
                    break
                for index, save in enumerate(saves):
                    outcomes[index] = outcomes[index] or await self._repeat(connection, save)
            except (_BrokenError, psycopg.Error, OSError):
                await self._disconnect()
                await asyncio.sleep(0.1)
        return [outcome or StoreUnavailableError() for outcome in outcomes]

    async def _repeat(self, connection: psycopg.AsyncConnection, save: Save) -> Outcome:
        try:
            return (await self._execute(connection, [save]))[0]
        except psycopg.Error as error:
            if _is_of_class(error, _DATA_ERRORS):
                return await self._refused(error)
            raise

    async def _execute(self, connection: psycopg.AsyncConnection, saves: Sequence[Save]) -> list[Outcome]:
        """Run the one statement; an error that leaves the connection whole is a certain rollback."""
        try:
            arguments = [array.encoded for array in parameters(saves)]
            row = await self._wire.row(arguments, self._statement_timeout_s + 5)
        except OSError as error:  # a timeout is one, too
            await self._disconnect()
            raise _BrokenError from error
        except psycopg.Error as error:
            if not (connection.broken or connection.closed):
                raise
            await self._disconnect()
            raise _BrokenError from error
        return [_outcome(save, *said) for save, said in zip(saves, _by_save(*row), strict=True)]

    async def _reconnected(self, deadline: float) -> psycopg.AsyncConnection | None:
        """Return the connection, opened anew where it is gone; None when `deadline` has passed."""
        pause = 0.02
        while self._connection is None or self._connection.closed:
            try:
                self._connection = await self._connect()
            except (psycopg.Error, OSError):
                if asyncio.get_running_loop().time() + pause > deadline:
                    return None
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
        return self._connection

    async def _connect(self) -> psycopg.AsyncConnection:
        settings = arguments("minutebook append", self._statement_timeout_s)
        connection = await psycopg.AsyncConnection.connect(self._conninfo, **settings)
        self._wire = Wire(connection, APPEND_NUMBERED, TYPES)
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire.release()
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _by_save(
    statuses: Sequence[int], firsts: Sequence[int | None], lasts: Sequence[int | None], stored_at: datetime
) -> Iterator[tuple[int, int | None, int | None, datetime]]:
    return zip(statuses, firsts, lasts, repeat(stored_at))


def _outcome(save: Save, status: int, first: int | None, last: int | None, stored_at: datetime) -> Outcome:
    if status != Status.STORED:
        return _REFUSALS[status]()
    if save.closing is not None and save.closing.first_position is not None:
        return Stored(save.closing.first_position, save.closing.last_position, stored_at)
    return Stored(first, last, stored_at)


def _is_of_class(error: psycopg.Error, classes: tuple[str, ...]) -> bool:
    by_driver = error.sqlstate is None and isinstance(error, psycopg.DataError)
    return by_driver or (error.sqlstate or "").startswith(classes)
