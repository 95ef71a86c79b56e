"""Turns across processes: what runs here is shared, what runs elsewhere is mirrored for its watchers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from application.errors import StoreUnavailableError, TurnAbandonedError, TurnNotFoundError
from application.frames import Frame, failed_frame
from application.live import LiveFeed
from application.ports import EventLog, Limits, TurnRow, Turns
from application.replay import ended_frames
from application.stream import TurnStream

SHARE_S: Final = 0.05
MIRROR_POLL_S: Final = 0.1
FORGET_S: Final = 300.0
LAST_SHARE_S: Final = 1.0

logger = structlog.get_logger("minutebook.sharing")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive provisional frames of one turn."""

    turn_id: str
    attempt: int
    conversation_id: str
    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where chunks were read: the newest one's number, and the numbers near it that were read."""

    newest: int
    near: frozenset[int] = frozenset()


IsWanted = Callable[[str, str], bool]  # turn id, conversation id


class Chunks(Protocol):
    """Where the chunks of running turns are kept for other processes. Losing one loses nothing stored."""

    async def keep(self, chunks: Sequence[Chunk], ended: Sequence[str]) -> None:
        """Keep new chunks and forget those of turns that are over."""

    async def mark(self) -> Mark:
        """Return where that begins which is kept from now on."""

    async def read(self, mark: Mark, is_wanted: IsWanted) -> tuple[list[Chunk], Mark]:
        """Return what is wanted of that which other nodes have kept since a mark, and the next mark."""

    async def of(self, turn_ids: Iterable[str], conversation_ids: Iterable[str]) -> list[Chunk]:
        """Return all chunks that other nodes have kept of these turns and conversations, in order."""

    async def forget_old(self) -> None:
        """Forget what processes that died have left."""


class Sharer:
    """Gives what this process' turns say to the others: one insert for all, at most every 50 ms."""

    def __init__(self, chunks: Chunks, streams: Callable[[], Sequence[TurnStream]]) -> None:
        self._chunks = chunks
        self._streams = streams
        self._shared: dict[str, tuple[int, int]] = {}  # turn -> attempt, last seq

    async def run(self) -> None:
        """Share until cancelled, and once more then: what has ended is cleared."""
        try:
            while True:
                await asyncio.sleep(SHARE_S)
                await self._share_if_possible()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SHARE_S):
                    await self._share_if_possible()

    async def _share_if_possible(self) -> None:
        try:
            await self._share()
        except StoreUnavailableError:
            pass  # provisional frames may vanish
        except Exception:
            logger.exception("sharing_broke")  # every watcher elsewhere lives by the next round

    async def _share(self) -> None:
        streams = {stream.row.turn_id: stream for stream in self._streams()}
        fresh = [chunk for stream in streams.values() if (chunk := self._fresh(stream))]
        ended = [turn_id for turn_id in self._shared if turn_id not in streams]
        if fresh or ended:
            await self._chunks.keep(fresh, ended)
        for chunk in fresh:  # what could not be kept is tried again
            self._shared[chunk.turn_id] = (chunk.attempt, chunk.frames[-1].seq)
        for turn_id in ended:
            del self._shared[turn_id]

    def _fresh(self, stream: TurnStream) -> Chunk | None:
        row = stream.row
        attempt, seq = self._shared.setdefault(row.turn_id, (row.attempt, 0))
        frames = stream.provisional_after(seq if attempt == row.attempt else 0)
        return Chunk(row.turn_id, row.attempt, row.conversation_id, frames) if frames else None


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
        self._unread: set[str] = set()  # turns that have to be read from their first chunk
        self._woken = asyncio.Event()
        self._mark: Mark | None = None

    def wake(self) -> None:
        """Look soon: there is a hint that another process has shared something."""
        self._woken.set()

    async def watch(self, row: TurnRow, seq: int) -> AsyncIterator[list[Frame]]:
        """Yield the frames of a turn that runs in another process, up to its terminal one."""
        stream = self._mirror(row)
        self._watchers[row.turn_id] = self._watchers.get(row.turn_id, 0) + 1
        if not stream.last_seq:
            self._unread.add(row.turn_id)
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
            try:
                await self._look()
                if asyncio.get_running_loop().time() > next_forget:
                    next_forget = asyncio.get_running_loop().time() + FORGET_S
                    await self._chunks.forget_old()
            except StoreUnavailableError:
                pass  # provisional frames may vanish
            except Exception:
                logger.exception("mirroring_broke")  # every watcher here lives by the next round

    # --- looking ---------------------------------------------------------------------------------

    async def _look(self) -> None:
        self._forget_unwatched()
        if not (self._streams or self._live.conversations):
            self._mark = None
            self._unread.clear()
            return
        for chunk in await self._current(await self._new()):
            if not self._goes_on(chunk):
                self._unread.add(chunk.turn_id)
        await self._read_from_the_first()
        await self._end_those_over(list(self._streams.values()))

    def _forget_unwatched(self) -> None:
        for turn_id, stream in list(self._streams.items()):
            if not self._is_watched(turn_id, stream.row.conversation_id):
                del self._streams[turn_id]

    def _is_watched(self, turn_id: str, conversation_id: str) -> bool:
        return turn_id in self._watchers or conversation_id in self._live.conversations

    async def _new(self) -> list[Chunk]:
        """Return what was said since the last look; where that has failed, all that is watched is unread."""
        mark, self._mark = self._mark, None
        if mark:
            chunks, self._mark = await self._chunks.read(mark, self._is_watched)
            return chunks
        self._unread.update(self._streams)
        self._live.newcomers.update(self._live.conversations)
        self._mark = await self._chunks.mark()
        return []

    async def _read_from_the_first(self) -> None:
        """Read what was missed, or said before anybody watched: a mirror begins where its turn does."""
        turns, conversations = set(self._unread), set(self._live.newcomers)
        if turns or conversations:
            for chunk in await self._current(await self._chunks.of(turns, conversations)):
                self._relay(chunk)
            self._unread -= turns
            self._live.newcomers -= conversations

    async def _end_those_over(self, streams: Sequence[TurnStream]) -> None:
        """End what is over of these streams; one that is added meanwhile was not asked about."""
        if streams:
            found = await self._turns.standing([stream.row.turn_id for stream in streams])
            rows = {row.turn_id: row for row in found}
            for stream in streams:
                await self._end_if_over(stream, rows.get(stream.row.turn_id))

    async def _current(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Leave out what is over: chunks stay a little longer than their turns, or long where a node died."""
        fresh = {chunk.turn_id for chunk in chunks if chunk.turn_id not in self._streams}
        rows = await self._turns.standing(list(fresh)) if fresh else ()
        running = {row.turn_id: row.attempt for row in rows if row.state == "running"}
        return [
            chunk
            for chunk in chunks
            if chunk.turn_id not in fresh or chunk.attempt == running.get(chunk.turn_id)
        ]

    def _goes_on(self, chunk: Chunk) -> bool:
        """Relay a chunk that goes on where its mirror stands; False where something before it is missing."""
        stream = self._streams.get(chunk.turn_id)
        known = stream.last_seq if stream and stream.row.attempt >= chunk.attempt else 0
        if chunk.frames[0].seq > known + 1:
            return False
        self._relay(chunk)
        return True

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
