"""The append: saves that arrive together are stored together, each for itself."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from application.errors import StoreUnavailableError
from infrastructure.postgres.batch import NewEvent, Save, Snapshot, Stored
from infrastructure.postgres.lane import Lane, Outcome, UnreachableError
from infrastructure.postgres.notifier import Notifier
from infrastructure.postgres.pace import Pace

__all__ = ["Appender", "NewEvent", "Save", "Snapshot", "Stored"]

_log = logging.getLogger(__name__)
LANES: Final = 2
LAST_HINT_S = 1.0  # for how long an end waits until readers are told of what was stored last


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


class Appender:
    """Appends to the log, one batch after the other, on connections of its own.

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
        self._lanes = [
            Lane(conninfo, settle_s=settle_s, statement_timeout_s=statement_timeout_s) for _ in range(LANES)
        ]
        self._batch_saves = batch_saves
        self._batch_bytes = batch_bytes
        self._on_batch = on_batch
        self._queue: deque[_Waiting] = deque()
        self._idle: list[asyncio.Future[None]] = []  # lanes that wait to be wanted
        self._flying = 0  # how many saves are being written
        self._streams: set[str] = set()  # of what is being written
        self._pace = Pace()
        self._notifier = Notifier(conninfo)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Start to append; the database need not be there yet."""
        self._tasks = [self._task(self._run(lane)) for lane in self._lanes]
        self._notifying = self._task(self._notifier.run())

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
        self._wake()
        return await waiting.answer

    async def stop(self) -> None:
        """Store what was given, then close the connections."""
        self._stopping = True
        self._wake_all()
        if self._tasks:
            await asyncio.gather(*self._tasks)
            self._notifier.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._notifying, LAST_HINT_S)
        for lane in self._lanes:
            await lane.close()

    @staticmethod
    def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def _run(self, lane: Lane) -> None:
        while self._queue or not self._stopping:
            if self._is_due() and (batch := self._take()):
                self._wake()
                await self._write(lane, batch)
                await asyncio.sleep(0)  # whoever was answered may have more to say
            else:
                self._idle.append(wanted := asyncio.get_running_loop().create_future())
                await wanted

    def _wake(self) -> None:
        """Wake a lane that has nothing to do, where what waits is due; it looks when all have spoken."""
        if self._idle and (len(self._idle) == LANES or self._pace.is_batch(len(self._queue))):
            self._idle.pop().set_result(None)

    def _is_due(self) -> bool:
        """Whether what waits is to be written now: nothing else is, or it is worth a batch beside that."""
        return bool(self._queue) and (not self._flying or self._pace.is_batch(len(self._queue)))

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.pop().set_result(None)

    def _take(self) -> list[_Waiting]:
        """Take the next batch: no two saves of a stream, and none of a stream that is being written."""
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        streams, size, most = set(self._streams), 0, self._most()
        while self._queue and len(batch) < most and size < self._batch_bytes:
            waiting = self._queue.popleft()
            (batch if streams.isdisjoint(waiting.streams) else passed).append(waiting)
            streams |= waiting.streams
            size += waiting.size
        self._queue.extendleft(reversed(passed))
        return batch

    def _most(self) -> int:
        """Say how many saves the next batch may have: half of all there are, where that is a batch, too."""
        waiting = len(self._queue)
        half = (waiting + self._flying + 1) // 2
        return min(self._batch_saves, half if self._pace.is_batch(half) else waiting)

    async def _write(self, lane: Lane, batch: Sequence[_Waiting]) -> None:
        was_alone = not self._flying
        streams = frozenset[str]().union(*(waiting.streams for waiting in batch))
        self._streams |= streams
        self._flying += len(batch)
        try:
            outcomes = await lane.write([waiting.save for waiting in batch])
        except UnreachableError:
            self._give_up()
            outcomes = [StoreUnavailableError()] * len(batch)
        except Exception:  # noqa: BLE001 - whatever it is, the next batch is to be written
            _log.exception("a batch failed in a way nobody thought of")
            outcomes = [StoreUnavailableError()] * len(batch)
            await lane.close()
        self._flying -= len(batch)
        self._streams -= streams
        if lane.took:
            self._pace.note(lane.took, was_alone=was_alone)
        self._answer(batch, outcomes)
        if self._stopping:
            self._wake_all()  # what waited for one of these streams may be all that is left

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
