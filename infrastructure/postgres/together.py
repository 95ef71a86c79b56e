"""Questions that arrive together are asked together: one statement, one round trip, one flush for all."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from application.errors import StoreUnavailableError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """Gathers what is asked while earlier batches are under way; what comes alone waits for nothing.

    `ask` gets the questions of a batch and returns their answers in the same order. A batch that
    fails is asked again one by one, so that what is wrong with one stays with it.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        most: int = 64,
        lanes: int = 2,
    ) -> None:
        self._ask = ask
        self._most = most
        self._free = lanes
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._busy: set[asyncio.Task[None]] = set()

    async def answer(self, question: Question) -> Answer:
        """Return the answer, asked together with whatever else is waiting. Raises what `ask` raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._free:
            self._free -= 1
            lane = asyncio.create_task(self._drive())
            self._busy.add(lane)
            lane.add_done_callback(self._busy.discard)
        return await future

    async def _drive(self) -> None:
        try:
            while self._waiting:
                await self._ask_some()
        finally:
            # At once after the last look at who waits: whoever comes next must find a lane.
            self._free += 1

    async def _ask_some(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            answers = await self._ask([question for question, _ in taken])
        except Exception as error:  # noqa: BLE001 (whatever it is, those who wait are told)
            await self._one_by_one(taken, error)
        else:
            for (_, future), said in zip(taken, answers, strict=True):
                _resolve(future, said)

    async def _one_by_one(
        self, taken: Sequence[tuple[Question, asyncio.Future[Answer]]], error: Exception
    ) -> None:
        if len(taken) == 1 or (isinstance(error, StoreUnavailableError) and _is_gone(error)):
            for _, future in taken:
                _fail(future, error)
            return
        for question, future in taken:
            try:
                _resolve(future, (await self._ask([question]))[0])
            except Exception as own:  # noqa: BLE001 (whatever it is, the one who waits is told)
                _fail(future, own)


def _is_gone(error: StoreUnavailableError) -> bool:
    """Whether the database did not answer at all: asking again one by one would only take longer."""
    return getattr(error.__cause__, "sqlstate", None) is None


def _resolve(future: asyncio.Future[Answer], said: Answer) -> None:
    if not future.done():  # nobody may be waiting any more
        future.set_result(said)


def _fail(future: asyncio.Future[Answer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
