"""The turns that run in this process: each its own task, leased, ended exactly once."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog

from application.errors import (
    ConflictError,
    StoreUnavailableError,
    TurnAbandonedError,
    TurnLostError,
)
from application.frames import Frame, committed_frames, failed_frame
from application.ports import Committed, EventLog, Failure, TurnRow
from application.protocol import stored_message
from application.replay import ended_frames, stored_events
from application.stream import TurnStream
from application.turn import Kit, Turn
from application.use_cases import USE_CASES
from domain.errors import MinutebookError

KEEP_S = 0.25  # how often leases are renewed at most, and other nodes' cancels are looked for

logger = structlog.get_logger("minutebook.turn")


class Running:
    """Runs turns. A watcher that goes away changes nothing; a shutdown lets them finish first."""

    def __init__(
        self, kit: Kit, log: EventLog, lease_s: float, on_frame: Callable[[Frame], None] | None = None
    ) -> None:
        self.is_closing = False
        self._kit = kit
        self._log = log
        self.lease_s = lease_s
        self._on_frame = on_frame
        self._turns: dict[str, Turn] = {}
        # Not by id: an attempt that was given up may still run when the next one of its turn begins.
        self._tasks: dict[Turn, asyncio.Task[None]] = {}
        self._keeper: asyncio.Task[None] | None = None

    # --- from outside ----------------------------------------------------------------------------

    def get(self, turn_id: str) -> Turn | None:
        """Return the turn while it runs here."""
        return self._turns.get(turn_id)

    def stream_of(self, row: TurnRow) -> TurnStream | None:
        """Return the stream of this attempt while it runs here."""
        turn = self._turns.get(row.turn_id)
        return turn.stream if turn and turn.row.attempt == row.attempt else None

    def streams(self) -> list[TurnStream]:
        """Return the streams of all turns that run here."""
        return [turn.stream for turn in self._turns.values()]

    def start(self, row: TurnRow, on_end: Callable[[], None]) -> Turn:
        """Run an accepted turn as a task of its own."""
        turn = Turn(row, TurnStream(row, self._kit.limits, self._on_frame))
        self._turns[row.turn_id] = turn
        task = asyncio.create_task(self._run(turn, on_end), name=f"turn {row.turn_id}")
        self._tasks[turn] = task
        return turn

    def cancel(self, turn_id: str) -> None:
        """Ask a turn that runs here to stop and keep what was said."""
        if turn := self._turns.get(turn_id):
            turn.cancel()

    def open_keeper(self) -> None:
        """Begin to renew leases, to free abandoned turns and to hear cancels from other nodes."""
        self._keeper = asyncio.create_task(self._keep(), name="turn keeper")

    async def close(self, grace_s: float) -> Sequence[str]:
        """Stop accepting, let turns finish for `grace_s` seconds, abandon the rest by name."""
        self.is_closing = True
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=grace_s)
        left = [turn.row.turn_id for turn in self._tasks]
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        return left

    # --- one turn --------------------------------------------------------------------------------

    async def _run(self, turn: Turn, on_end: Callable[[], None]) -> None:
        started = time.monotonic()
        self._kit.metrics.turn_started()
        outcome = "abandoned"
        try:
            outcome = await self._attempt(turn)
        except asyncio.CancelledError:
            outcome = await _to_the_end(self._give_up(turn))
        except Exception as error:  # noqa: BLE001 (whatever it is, the turn ends in one terminal frame)
            outcome = await _to_the_end(self._end_badly(turn, error))
        finally:
            self._forget(turn)
            on_end()
            self._report(turn, outcome, time.monotonic() - started)

    def _forget(self, turn: Turn) -> None:
        del self._tasks[turn]
        # The store may have given the id to its next attempt before this one has quite ended.
        if self._turns.get(turn.row.turn_id) is turn:
            del self._turns[turn.row.turn_id]

    async def _attempt(self, turn: Turn) -> str:
        started = time.monotonic()
        try:
            message = stored_message(turn.row.payload or {})
            committed = await USE_CASES[turn.row.kind](message, turn, self._kit)
            turn.stored = len(committed.events)
        except ConflictError:
            self._kit.metrics.append_conflict()
            raise
        finally:
            turn.took_s = time.monotonic() - started
        if committed.events:
            turn.stream.end(committed_frames(_committed_row(turn, committed), committed.events))
            return "committed"
        return await _to_the_end(self._announce_again(turn, committed))

    async def _announce_again(self, turn: Turn, committed: Committed) -> str:
        """Nothing new was recorded: say the outcome of the earlier turn, read from the log."""
        turn.stream.end(await ended_frames(_committed_row(turn, committed), self._log))
        return "committed"

    async def _end_badly(self, turn: Turn, error: Exception) -> str:
        """Refuse a message that was never taken; fail a turn that had begun."""
        known = error if isinstance(error, MinutebookError) else MinutebookError()
        if known is not error:
            logger.error("turn_broke", turn=turn.row.turn_id, exc_info=error)
        if not turn.is_open and not known.retryable and known is error:
            await self._take_back(turn, known)
            turn.stream.refuse(failed_frame(turn.row, known, turn.stream.last_seq + 1))
            turn.opened.set_exception(known)
            turn.opened.exception()  # the one who asked reads it; nobody may be left to
            return "refused"
        return await self._fail(turn, known)

    async def _take_back(self, turn: Turn, refusal: MinutebookError) -> None:
        """Forget a turn that was refused; one that had failed before keeps why it was refused now."""
        row, said = turn.row, Failure(refusal.code, str(refusal), turn.stream.last_seq)
        try:
            if row.attempt > 1:
                await self._kit.turns.fail(row.turn_id, row.attempt, said)
            else:
                await self._kit.turns.withdraw(row.turn_id, row.attempt)
        except StoreUnavailableError:
            logger.warning("turn_not_withdrawn", turn=row.turn_id)  # its lease runs out

    async def _fail(self, turn: Turn, error: MinutebookError) -> str:
        failure = Failure(error.code, str(error), turn.stream.last_seq)
        try:
            if not await self._kit.turns.fail(turn.row.turn_id, turn.row.attempt, failure):
                return await self._ended_otherwise(turn, error)
        except StoreUnavailableError:
            logger.warning("turn_failure_not_stored", turn=turn.row.turn_id)  # its lease runs out
        self._end(turn, error)
        return error.code

    async def _ended_otherwise(self, turn: Turn, error: MinutebookError) -> str:
        """The turn is not ours any more: given up by its lease, or stored though nobody told us."""
        row = await self._kit.turns.find(turn.row.turn_id, turn.row.subject)
        if row and row.state == "committed" and row.attempt == turn.row.attempt:
            events = await stored_events(row, self._log)
            turn.stored = sum(event.turn_id == row.turn_id for event in events)
            turn.stream.end(committed_frames(row, events))
            return "committed"
        self._end(turn, error)
        return error.code

    async def _give_up(self, turn: Turn) -> str:
        error: MinutebookError = TurnLostError()
        if self.is_closing:
            error = TurnAbandonedError()
            await asyncio.gather(self._kit.turns.abandon([turn.attempt]), return_exceptions=True)
        self._end(turn, error)
        return error.code

    def _end(self, turn: Turn, error: MinutebookError) -> None:
        turn.stream.end([failed_frame(turn.row, error, turn.stream.last_seq + 1)])
        if not turn.opened.done():
            turn.opened.set_result(None)

    def _report(self, turn: Turn, outcome: str, seconds: float) -> None:
        """Count a turn and write the one log line of its stream."""
        status = "rolled_back" if turn.stored is None else "committed"
        self._kit.metrics.committed(turn.row.kind, status, turn.took_s)
        self._kit.metrics.turn_ended(turn.row.kind, outcome, seconds)
        logger.info(
            "stream",
            turn=turn.row.turn_id,
            conversation=turn.row.conversation_id,
            kind=turn.row.kind,
            attempt=turn.row.attempt,
            outcome=outcome,
            lifetime_s=round(seconds, 6),
            commits=int(turn.stored is not None),
            events=turn.stored or 0,
        )

    # --- keeping ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        next_sweep = 0.0
        while True:
            await asyncio.sleep(min(KEEP_S, self.lease_s / 4))
            try:
                await self._renew()
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + self.lease_s / 3
                    for turn_id in await self._kit.turns.sweep():
                        logger.warning("turn_abandoned", turn=turn_id)
            except StoreUnavailableError:
                logger.warning("leases_not_renewed", turns=len(self._tasks))
            except Exception:
                logger.exception("keeper_broke")  # every turn of this process lives by its next round

    async def _renew(self) -> None:
        turns = list(self._tasks)
        if not turns:
            return
        renewal = await self._kit.turns.renew([turn.attempt for turn in turns])
        for turn in turns:  # of these it was asked, and not of what has begun since
            if turn.attempt in renewal.cancelled:
                turn.cancel()
            if turn.attempt in renewal.lost and turn in self._tasks:
                self._tasks[turn].cancel()


async def _to_the_end(ending: Coroutine[Any, Any, str]) -> str:
    """Wait for it although we are cancelled meanwhile: a stream whose end is not told never ends."""
    task = asyncio.ensure_future(ending)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise


def _committed_row(turn: Turn, committed: Committed) -> TurnRow:
    """Return the turn's row as the commit has closed it."""
    return replace(
        turn.row,
        state="committed",
        first_position=committed.first_position,
        last_position=committed.last_position,
        provisional_frames=turn.stream.last_seq,
        outcome=committed.outcome,
    )
