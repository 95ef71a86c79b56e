"""Turns across processes: what runs here is shared, what runs elsewhere is mirrored for its watchers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from application.errors import StoreUnavailableError, TurnAbandonedError, TurnNotFoundError
from application.frames import Frame, failed_frame
from application.live import LiveFeed
from application.ports import EventLog, Limits, TurnRow, Turns
from application.replay import ended_frames
from application.stream import TurnStream

SHARE_S: Final = 0.05
MIRROR_POLL_S: Final = 0.1
FORGET_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive provisional frames of one turn."""

    turn_id: str
    attempt: int
    conversation_id: str
    frames: Sequence[Frame]


class Chunks(Protocol):
    """Where the chunks of running turns are kept for other processes. Losing one loses nothing stored."""

    async def keep(self, chunks: Sequence[Chunk], ended: Sequence[str]) -> None:
        """Keep new chunks and forget those of turns that are over."""

    async def read(
        self, turn_ids: Sequence[str], conversation_ids: Sequence[str], after: int
    ) -> tuple[list[Chunk], int]:
        """Return what other nodes' turns have said after a mark, and the next mark."""

    async def forget_old(self) -> None:
        """Forget what processes that died have left."""


class Sharer:
    """Gives what this process' turns say to the others: one insert for all, at most every 50 ms."""

    def __init__(self, chunks: Chunks, streams: Callable[[], Sequence[TurnStream]]) -> None:
        self._chunks = chunks
        self._streams = streams
        self._shared: dict[str, tuple[int, int]] = {}  # turn -> attempt, last seq

    async def run(self) -> None:
        """Share until cancelled."""
        while True:
            await asyncio.sleep(SHARE_S)
            with suppress(StoreUnavailableError):  # provisional frames may vanish
                await self._share()

    async def _share(self) -> None:
        streams = {stream.row.turn_id: stream for stream in self._streams()}
        fresh = [chunk for stream in streams.values() if (chunk := self._fresh(stream))]
        ended = [turn_id for turn_id in self._shared if turn_id not in streams]
        if fresh or ended:
            await self._chunks.keep(fresh, ended)
        for turn_id in ended:
            del self._shared[turn_id]

    def _fresh(self, stream: TurnStream) -> Chunk | None:
        row = stream.row
        attempt, seq = self._shared.get(row.turn_id, (row.attempt, 0))
        frames = stream.provisional_after(seq if attempt == row.attempt else 0)
        if not frames:
            return None
        self._shared[row.turn_id] = (row.attempt, frames[-1].seq)
        return Chunk(row.turn_id, row.attempt, row.conversation_id, frames)


class Mirrors:
    """Turns that run elsewhere and are watched here, each mirrored once however many watch it."""

    def __init__(self, chunks: Chunks, turns: Turns, log: EventLog, live: LiveFeed, limits: Limits) -> None:
        self._chunks = chunks
        self._turns = turns
        self._log = log
        self._live = live
        self._limits = limits
        self._streams: dict[str, TurnStream] = {}
        self._watchers: dict[str, int] = {}
        self._woken = asyncio.Event()
        # Up to where chunks were read; None while they are being read, and after that has failed.
        self._mark: int | None = 0

    def wake(self) -> None:
        """Look soon: there is a hint that another process has shared something."""
        self._woken.set()

    async def watch(self, row: TurnRow, seq: int) -> AsyncIterator[list[Frame]]:
        """Yield the frames of a turn that runs in another process, up to its terminal one."""
        stream = self._mirror(row)
        self._watchers[row.turn_id] = self._watchers.get(row.turn_id, 0) + 1
        self._mark = 0  # what it has said so far is wanted, too
        self.wake()
        try:
            async with aclosing(stream.watch(seq)) as batches:  # type: ignore[type-var]  # a generator
                async for batch in batches:
                    yield batch
        finally:
            self._watchers[row.turn_id] -= 1
            if not self._watchers[row.turn_id]:
                del self._watchers[row.turn_id]

    async def run(self) -> None:
        """Mirror until cancelled."""
        next_forget = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(MIRROR_POLL_S):  # `wait_for` loses a cancel that meets a wake
                    await self._woken.wait()
            self._woken.clear()
            with suppress(StoreUnavailableError):  # provisional frames may vanish
                await self._look()
                if asyncio.get_running_loop().time() > next_forget:
                    next_forget = asyncio.get_running_loop().time() + FORGET_S
                    await self._chunks.forget_old()

    async def _look(self) -> None:
        conversations = self._live.conversations
        if not (conversations or self._streams):
            return
        after, self._mark = self._mark, None
        chunks, mark = await self._chunks.read(list(self._streams), conversations, after or 0)
        if self._mark is None:  # nobody came meanwhile who wants it all
            self._mark = mark
        for chunk in await self._current(chunks):
            self._relay(chunk)
        await self._end_those_over(list(self._streams.values()))

    async def _end_those_over(self, streams: Sequence[TurnStream]) -> None:
        """End what is over of these streams; one that is added meanwhile was not asked about."""
        if streams:
            found = await self._turns.rows([stream.row.turn_id for stream in streams])
            rows = {row.turn_id: row for row in found}
            for stream in streams:
                await self._end_if_over(stream, rows.get(stream.row.turn_id))

    async def _current(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Leave out what is over: chunks stay a little longer than their turns, or long where a node died."""
        fresh = {chunk.turn_id for chunk in chunks if chunk.turn_id not in self._streams}
        rows = await self._turns.rows(list(fresh)) if fresh else ()
        running = {row.turn_id: row.attempt for row in rows if row.state == "running"}
        return [
            chunk
            for chunk in chunks
            if chunk.turn_id not in fresh or chunk.attempt == running.get(chunk.turn_id)
        ]

    def _relay(self, chunk: Chunk) -> None:
        stream = self._streams.get(chunk.turn_id)
        if stream is None or stream.row.attempt < chunk.attempt:
            stream = self._mirror(_row_of(chunk))
        if stream.row.attempt == chunk.attempt:
            stream.relay(chunk.frames)

    def _mirror(self, row: TurnRow) -> TurnStream:
        stream = self._streams.get(row.turn_id)
        if stream is None or stream.row.attempt < row.attempt:
            if stream:  # nobody looks after it any more
                stream.end([_given_up(stream)])
            stream = self._streams[row.turn_id] = TurnStream(row, self._limits, self._live.relay)
        return stream

    async def _end_if_over(self, stream: TurnStream, row: TurnRow | None) -> None:
        if row and row.state == "running" and row.attempt == stream.row.attempt:
            return
        last = await self._last_frames(row, stream)  # where the store cannot say, the next look asks again
        if self._streams.get(stream.row.turn_id) is stream:
            del self._streams[stream.row.turn_id]
        stream.end(last)

    async def _last_frames(self, row: TurnRow | None, stream: TurnStream) -> list[Frame]:
        if row is None:
            return [failed_frame(stream.row, TurnNotFoundError(), stream.last_seq + 1)]
        if row.attempt != stream.row.attempt:  # it was tried again: this attempt had been abandoned
            return [_given_up(stream)]
        return await ended_frames(row, self._log, stream.last_seq)


def _given_up(stream: TurnStream) -> Frame:
    return failed_frame(stream.row, TurnAbandonedError(), stream.last_seq + 1)


def _row_of(chunk: Chunk) -> TurnRow:
    """Return what a chunk tells of its turn; the rest is not needed to mirror it."""
    frame = chunk.frames[0]
    return TurnRow(
        turn_id=chunk.turn_id,
        conversation_id=chunk.conversation_id,
        subject="",
        kind=str(frame.body.get("kind", "")),
        payload=None,
        payload_hash="",
        state="running",
        attempt=chunk.attempt,
        node="",
        accepted_at=datetime.min.replace(tzinfo=UTC),
    )
