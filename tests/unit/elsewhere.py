"""A turn that runs in another process, as this one sees it: its row, its chunks, its part of the log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from application.errors import StoreUnavailableError
from application.frames import DELTA, frame
from application.live import LiveFeed
from application.ports import Limits, TurnRow
from application.sharing import Chunk, IsWanted, Mark, Mirrors

FIRST = TurnRow(
    turn_id="t-1",
    conversation_id="c-1",
    subject="ada",
    kind="user_message",
    payload={},
    payload_hash="",
    state="running",
    attempt=1,
    node="there",
    accepted_at=datetime(2026, 1, 2, tzinfo=UTC),
)
SECOND = replace(FIRST, attempt=2)


class Elsewhere:
    """What another process' turn has left in the store: its row, its chunks, its part of the log."""

    def __init__(self) -> None:
        self.row = FIRST
        self.others: list[TurnRow] = []
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.chunks: list[Chunk] = []
        self.looks = 0
        self.read_whole: list[tuple[set[str], set[str]]] = []  # turns, conversations
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.failing_reads = 0
        self.failures: list[Exception] = []  # of the next looks

    def says(self, row: TurnRow, text: str, seq: int = 1) -> None:
        said = frame(row, seq, DELTA, {"text": text})
        self.chunks.append(Chunk(row.turn_id, row.attempt, row.conversation_id, [said]))

    async def standing(self, turn_ids: Sequence[str]) -> Sequence[TurnRow]:
        found = [row for row in (self.row, *self.others) if row.turn_id in turn_ids]
        self.is_asked.set()
        await self.may_answer.wait()
        return found

    async def forget_old(self) -> None:
        """Nothing is old here."""

    async def mark(self) -> Mark:
        await self._looked()
        return Mark(len(self.chunks))

    async def read(self, first: Any, second: Any) -> Any:
        if isinstance(first, Mark):
            return await self._read_chunks(first, second)
        if self.failing_reads:  # the log: from one position to another
            self.failing_reads -= 1
            raise StoreUnavailableError
        return []

    async def _read_chunks(self, mark: Mark, is_wanted: IsWanted) -> tuple[list[Chunk], Mark]:
        await self._looked()
        new = self.chunks[mark.newest :]
        return [one for one in new if is_wanted(one.turn_id, one.conversation_id)], Mark(len(self.chunks))

    async def _looked(self) -> None:
        self.looks += 1
        await self.may_read.wait()
        if self.failures:
            raise self.failures.pop()

    async def of(self, turns: set[str], conversations: set[str]) -> list[Chunk]:
        self.read_whole.append((set(turns), set(conversations)))
        return [
            one for one in self.chunks if one.turn_id in turns or one.conversation_id in conversations
        ]  # they stay: nobody may be left to clear them

    async def look(self, times: int) -> None:
        """Let the chunks be looked for so many times more."""
        until = self.looks + times
        await happens(lambda: self.looks >= until)


@asynccontextmanager
async def mirrored(there: Elsewhere, live: LiveFeed | None = None) -> AsyncIterator[Mirrors]:
    store = cast("Any", there)
    mirrors = Mirrors(store, store, store, live or LiveFeed(store), Limits())
    looking = asyncio.create_task(mirrors.run())
    try:
        yield mirrors
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def happens(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (what is looked at is no event)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(mirrors: Mirrors, row: TurnRow) -> AsyncIterator[list[int]]:
    """Watch a turn; yields the numbers of its frames as they come."""
    heard: list[int] = []

    async def watch() -> None:
        async for batch in mirrors.watch(row, 0):
            heard.extend(one.seq for one in batch)

    async with task(watch()):
        yield heard


@asynccontextmanager
async def following(live: LiveFeed, conversation_id: str) -> AsyncIterator[list[int]]:
    """Watch a conversation; yields the numbers of the provisional frames as they come."""
    heard: list[int] = []

    async def follow() -> None:
        async for items in live.watch(0, conversation_id=conversation_id):
            heard.extend(item.body["seq"] for item in items)

    async with task(follow()):
        yield heard


@asynccontextmanager
async def task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    running = asyncio.create_task(work)
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def speaking(there: Elsewhere, row: TurnRow, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        there.says(row, f"word {seq}", seq)
