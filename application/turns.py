"""Turns from outside: accept one, run it as its own task, watch it, cancel it, try it again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from application.errors import (
    AgentNotFoundError,
    ShuttingDownError,
    StoreUnavailableError,
    TurnIdReusedError,
    TurnInProgressError,
    TurnNotFoundError,
    TurnNotRetryableError,
)
from application.frames import Frame, failed_frame, seq_after
from application.ids import new_id
from application.pace import Pace
from application.ports import Accepted, Busy, EventLog, Existing, TurnRequest, TurnRow
from application.protocol import Amend, AnyMessage, Asked, AskedToAmend, payload_hash, payload_of
from application.queueing import Queues
from application.replay import ended_frames
from application.running import Running
from application.sharing import Mirrors
from application.turn import Kit
from application.use_cases import PATIENT

POLL_S = 0.05
# How long a cancel waits for its turn's end: until the lease of a node that died is over, and a second more.
CANCEL_AT_LEAST_S = 10.0
CANCEL_AT_MOST_S = 30.0
CANCEL_POLL_S = 0.5
STORE_PATIENCE_S = 30.0


Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Following:
    """A turn somebody reads: its row when they began, and its frames as they come."""

    row: TurnRow
    frames: AsyncIterator[Sequence[Frame]]


class TurnService:
    """All that can be done with turns. One a process; it holds no request's state."""

    def __init__(self, kit: Kit, log: EventLog, running: Running, mirrors: Mirrors) -> None:
        self._kit = kit
        self._log = log
        self._running = running
        self._mirrors = mirrors
        self._queues = Queues()

    # --- doing -----------------------------------------------------------------------------------

    async def submit(self, asked: Asked | AskedToAmend, subject: str) -> Following:
        """Accept a message and stream its turn; a repeat of the same turn attaches or replays.

        Raises what the state table says (`docs/protocol.md`), before anything streams.
        """
        self._refuse_while_closing()
        self._refuse_unknown_agent(asked.message)
        request = _request(asked, subject)
        while True:
            outcome = await self._accept(request)
            if isinstance(outcome, Accepted):
                return await self._begin(outcome.row, request.conversation_id)
            if isinstance(outcome, Busy):
                raise TurnInProgressError(turn_id=outcome.running_turn_id)
            if following := await self._repeat(outcome.row, request, asked):
                return following

    async def retry(self, turn_id: str, subject: str) -> Following:
        """Run a failed or abandoned turn again, as its next attempt."""
        self._refuse_while_closing()
        row = await self.status(turn_id, subject)
        outcome = await self._in_line(row, lambda: self._kit.turns.retry(turn_id, subject))
        if outcome is None:
            raise TurnNotFoundError
        if isinstance(outcome, Busy):
            raise TurnInProgressError(turn_id=outcome.running_turn_id)
        if isinstance(outcome, Existing):
            raise TurnNotRetryableError(turn_id=turn_id, state=outcome.row.state)
        return await self._begin(outcome.row, outcome.row.conversation_id)

    async def cancel(self, turn_id: str, subject: str) -> TurnRow:
        """Stop a turn, wherever it runs, and return how it ended. Twice is once.

        One whose node has died is abandoned as soon as its lease is over. What has not ended in half a minute
        is returned as it is, still running.
        """
        row = await self._kit.turns.request_cancel(turn_id, subject)
        if row is None:
            raise TurnNotFoundError
        if row.state != "running":
            return row
        if self._running.stream_of(row):  # and not of a retry that has begun since
            self._running.cancel(turn_id)
        return await self._ended(row)

    async def _ended(self, row: TurnRow) -> TurnRow:
        """Wait for the end of a turn that was asked to stop; an attempt after it is somebody else's wish."""
        wait_s = min(max(CANCEL_AT_LEAST_S, self._running.lease_s + 1), CANCEL_AT_MOST_S)
        deadline, pause_s = asyncio.get_running_loop().time() + wait_s, POLL_S
        while True:
            waits = self._waits_for(row.turn_id, deadline)  # first: what ends meanwhile is then in the row
            await self._kit.turns.free(row.turn_id)
            found = await self.status(row.turn_id, row.subject)
            if found.state != "running" or found.attempt != row.attempt or not waits:
                return found
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.2, CANCEL_POLL_S)

    def _waits_for(self, turn_id: str, deadline: float) -> bool:
        """Whether there is time left; a server that closes waits for none but its own turns."""
        is_elsewhere = self._running.get(turn_id) is None
        return (
            not (self._running.is_closing and is_elsewhere) and asyncio.get_running_loop().time() < deadline
        )

    # --- reading ---------------------------------------------------------------------------------

    async def status(self, turn_id: str, subject: str) -> TurnRow:
        """Return a turn as it stands. Raises `TurnNotFoundError`."""
        row = await self._kit.turns.find(turn_id, subject)
        if row is None:
            raise TurnNotFoundError
        return row

    async def is_own(self, turn_id: str, subject: str) -> bool:
        """Whether there is such a turn, of this subject."""
        return await self._kit.turns.find(turn_id, subject) is not None

    async def running_in(self, conversation_id: str, subject: str) -> TurnRow | None:
        """Return the turn of this subject that runs in the conversation, stored or not, or None."""
        return await self._kit.turns.running_in(conversation_id, subject)

    async def attach(self, turn_id: str, subject: str, cursor: str | None = None) -> Following:
        """Read a turn from a cursor on: live while it runs, from the log at any later time."""
        row = await self.status(turn_id, subject)
        return Following(row, self._follow(row, subject, seq_after(cursor, row.attempt)))

    async def newest_plan_version(self, conversation_id: str, plan_id: str) -> int:
        """Return the newest version of a plan, for clients that do not say which one they saw; 0: none.

        Raises `ConversationNotFoundError`. Whose conversation it is, the turn itself asks.
        """
        async with self._kit.unit_of_work(conversation_id, new_id()) as work:
            return work.conversation.newest_version(plan_id)

    async def _follow(self, row: TurnRow, subject: str, seq: int) -> AsyncIterator[Sequence[Frame]]:
        """Yield what is left of a turn: always up to one terminal frame, whatever happens meanwhile."""
        patience = asyncio.get_running_loop().time() + STORE_PATIENCE_S
        pace = Pace()
        while True:
            if live := self._live(row, seq):
                async for batch in live:
                    yield batch
                return
            try:
                if row.state != "running":
                    yield await ended_frames(row, self._log, seq)
                    return
                # It was accepted a moment ago or is just over; or its end could not be stored.
                if await pace.rest():
                    yield []
                found = await self.status(row.turn_id, subject)
                if found.attempt != row.attempt:
                    seq = 0  # a cursor belongs to its attempt; the next one is read from its start
                row = found
            except (StoreUnavailableError, TurnNotFoundError) as error:
                gone = isinstance(error, TurnNotFoundError)
                if gone or asyncio.get_running_loop().time() > patience:
                    yield [failed_frame(row, error, seq + 1)]
                    return

    def _live(self, row: TurnRow, seq: int) -> AsyncIterator[Sequence[Frame]] | None:
        """Return what a turn that runs says from now on, here or elsewhere; None where nobody hears it."""
        if stream := self._running.stream_of(row):
            return stream.watch(seq)
        is_elsewhere = row.state == "running" and row.node != self._kit.node
        return self._mirrors.watch(row, seq) if is_elsewhere else None

    # --- accepting -------------------------------------------------------------------------------

    async def _begin(self, row: TurnRow, conversation_id: str) -> Following:
        if self._running.is_closing:  # since it was asked for: nobody would wait for its end
            await self._kit.turns.withdraw(row.turn_id, row.attempt)
            raise ShuttingDownError
        turn = self._running.start(row, on_end=lambda: self._queues.wake(conversation_id))
        await asyncio.shield(turn.opened)
        return Following(row, turn.stream.watch())

    async def _repeat(
        self, row: TurnRow, request: TurnRequest, asked: Asked | AskedToAmend
    ) -> Following | None:
        """Attach to a turn that was accepted before; None where it was withdrawn meanwhile."""
        other_place = asked.conversation_id and asked.conversation_id != row.conversation_id
        if row.payload_hash != request.payload_hash or other_place:
            raise TurnIdReusedError(turn_id=row.turn_id)
        pace = Pace()
        while row.state == "running" and row.node == self._kit.node:
            if turn := self._running.get(row.turn_id):
                await asyncio.shield(turn.opened)  # a refusal of the first is the refusal of the second
                break
            await pace.rest()  # accepted a moment ago, or just over, or its end could not be stored
            found = await self._kit.turns.find(row.turn_id, row.subject)
            if found is None:
                return None
            row = found
        return Following(row, self._follow(row, row.subject, 0))

    async def _accept(self, request: TurnRequest) -> Accepted | Existing | Busy:
        would_wait = request.kind in PATIENT and self._queues.is_waited_in(request.conversation_id)
        if would_wait and (row := await self._kit.turns.find(request.turn_id, request.subject)):
            return Existing(row)  # who repeats what was accepted before has nothing to wait for
        return await self._in_line(request, lambda: self._kit.turns.accept(request))

    async def _in_line(
        self, asked: TurnRequest | TurnRow, begin: Callable[[], Awaitable[Outcome]]
    ) -> Outcome | Busy:
        """Begin a turn; one of a patient kind waits until the conversation is free and its place is first."""
        if asked.kind not in PATIENT:
            return await begin()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._kit.limits.busy_wait_s
        async with self._queues.place(asked.conversation_id, self._kit.limits.busy_wait_s) as place:
            while True:
                outcome = await begin()
                left = deadline - loop.time()
                if not isinstance(outcome, Busy) or left <= 0 or not place.is_first:
                    return outcome
                await place.wait(min(left, POLL_S))
                self._refuse_while_closing()

    def _refuse_while_closing(self) -> None:
        if self._running.is_closing:
            raise ShuttingDownError

    def _refuse_unknown_agent(self, message: AnyMessage | Amend) -> None:
        agent = getattr(message, "agent", None)
        if agent is not None and agent not in self._kit.roster.names:
            raise AgentNotFoundError(agent=agent, agents=", ".join(self._kit.roster.names))


def _request(asked: Asked | AskedToAmend, subject: str) -> TurnRequest:
    payload = payload_of(asked.message)
    return TurnRequest(
        turn_id=asked.turn_id or new_id(),
        conversation_id=asked.conversation_id or new_id(),
        subject=subject,
        kind=asked.message.type,
        payload=payload,
        payload_hash=payload_hash(payload),
    )
