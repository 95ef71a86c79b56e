"""A turn that runs elsewhere is watched here up to its one end, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from application.errors import StoreUnavailableError
from application.frames import COMMITTED, DELTA, FAILED, Frame, frame
from application.live import LiveFeed
from application.ports import Limits, TurnRow
from application.sharing import Chunk, Mirrors, Sharer
from application.stream import TurnStream
from application.subscription import FeedItem

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
        self.marks: list[int] = []  # after which chunks were looked for
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.failing_reads = 0

    def says(self, row: TurnRow, text: str) -> None:
        self.chunks.append(
            Chunk(row.turn_id, row.attempt, row.conversation_id, [frame(row, 1, DELTA, {"text": text})])
        )

    async def rows(self, turn_ids: Sequence[str]) -> Sequence[TurnRow]:
        found = [row for row in (self.row, *self.others) if row.turn_id in turn_ids]
        self.is_asked.set()
        await self.may_answer.wait()
        return found

    async def forget_old(self) -> None:
        """Nothing is old here."""

    async def read(self, *asked: Any) -> Any:
        if len(asked) == 3:  # chunks: which turns, which conversations, after which mark
            self.marks.append(asked[2])
            await self.may_read.wait()
            return list(self.chunks), asked[2] + 1  # they stay: nobody may be left to clear them
        if self.failing_reads:  # the log: from one position to another
            self.failing_reads -= 1
            raise StoreUnavailableError
        return []

    async def look(self, times: int) -> None:
        """Let the chunks be looked for so many times more."""
        until = len(self.marks) + times
        await happens(lambda: len(self.marks) >= until)


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


async def watched(mirrors: Mirrors, row: TurnRow) -> list[Frame]:
    async with asyncio.timeout(5):
        return [one async for batch in mirrors.watch(row, 0) for one in batch]


async def test_an_attempt_is_over_for_its_watchers_when_the_next_one_speaks_first() -> None:
    there = Elsewhere()
    async with mirrored(there) as mirrors:
        watching = asyncio.create_task(watched(mirrors, FIRST))
        await asyncio.sleep(0)
        there.row = SECOND  # tried again before anybody looked how the first attempt had ended
        there.says(SECOND, "once more")
        frames = await watching
    assert [one.type for one in frames] == [FAILED]
    assert frames[-1].body["code"] == "turn_abandoned"


async def test_an_attempt_is_over_for_its_watchers_when_somebody_watches_the_next_one() -> None:
    there = Elsewhere()
    async with mirrored(there) as mirrors:
        watching = asyncio.create_task(watched(mirrors, FIRST))
        await asyncio.sleep(0)
        there.row = SECOND
        watching_next = asyncio.create_task(watched(mirrors, SECOND))
        assert [one.type for one in await watching] == [FAILED]
        there.row = replace(SECOND, state="committed", first_position=1, last_position=1)
        assert [one.type for one in await watching_next] == [COMMITTED]


async def test_the_end_is_told_although_the_store_was_away_when_it_was_asked_for() -> None:
    there = Elsewhere()
    async with mirrored(there) as mirrors:
        watching = asyncio.create_task(watched(mirrors, FIRST))
        await asyncio.sleep(0)
        there.failing_reads = 1
        there.row = replace(FIRST, state="committed", first_position=1, last_position=1)
        frames = await watching
    assert [one.type for one in frames] == [COMMITTED]


async def test_who_comes_while_the_store_is_asked_about_others_is_not_told_of_an_end() -> None:
    there, other = Elsewhere(), replace(FIRST, turn_id="t-2", conversation_id="c-2")
    there.others = [other]
    there.may_answer.clear()
    async with mirrored(there) as mirrors:
        watching = asyncio.create_task(watched(mirrors, FIRST))
        await there.is_asked.wait()
        watching_other = asyncio.create_task(watched(mirrors, other))
        await asyncio.sleep(0)
        there.may_answer.set()
        await asyncio.sleep(0)
        over: dict[str, Any] = {"state": "committed", "first_position": 1, "last_position": 1}
        there.row, there.others = replace(FIRST, **over), [replace(other, **over)]
        assert [one.type for one in await watching_other] == [COMMITTED]
        assert [one.type for one in await watching] == [COMMITTED]


async def test_mirroring_ends_when_it_is_cancelled_at_the_moment_of_a_hint() -> None:
    for rounds in range(10):
        store = cast("Any", Elsewhere())
        mirrors = Mirrors(store, store, store, LiveFeed(store), Limits())
        looking = asyncio.create_task(mirrors.run())
        await asyncio.sleep(0.01)
        mirrors.wake()
        for _ in range(rounds):
            await asyncio.sleep(0)
        looking.cancel()
        done, _ = await asyncio.wait({looking}, timeout=1)
        looking.cancel()  # should the first one have been lost
        assert done, f"cancelled {rounds} rounds of the loop after the hint"


@pytest.mark.parametrize("state", ["committed", "failed", "abandoned"])
async def test_a_feed_is_told_once_what_was_said_although_its_chunks_stay(state: str) -> None:
    there, said = Elsewhere(), list[FeedItem]()
    live = LiveFeed(cast("Any", there))

    async def follow() -> None:
        async for items in live.watch(0, conversation_id="c-1"):
            said.extend(items)

    async with mirrored(there, live):
        following = asyncio.create_task(follow())
        there.says(FIRST, "so far")
        await there.look(3)
        there.row = replace(FIRST, state=cast("Any", state), first_position=1, last_position=1)
        await there.look(5)
        following.cancel()
    end = [] if state == "committed" else [FAILED]
    assert [one.type for one in said] == [DELTA, *end]


async def test_who_comes_while_chunks_are_being_read_gets_all_that_was_said_before() -> None:
    there, other = Elsewhere(), replace(FIRST, turn_id="t-2", conversation_id="c-2")
    there.others = [other]
    async with mirrored(there) as mirrors:
        watching = asyncio.create_task(watched(mirrors, FIRST))
        await there.look(3)
        there.may_read.clear()
        await there.look(1)
        watching_other = asyncio.create_task(watched(mirrors, other))
        await asyncio.sleep(0)
        there.may_read.set()
        await there.look(1)
        assert there.marks[-1] == 0
        assert there.marks[-2] > 0
        for one in (watching, watching_other):
            one.cancel()


class Flaky:
    """A place for chunks that is away once."""

    def __init__(self) -> None:
        self.ended: list[Sequence[str]] = []

    async def keep(self, _: Sequence[Chunk], ended: Sequence[str]) -> None:
        self.ended.append(ended)
        if ended and len(self.ended) == 2:
            raise StoreUnavailableError


async def test_chunks_of_a_turn_that_is_over_are_cleared_although_the_store_was_away() -> None:
    chunks, stream = Flaky(), TurnStream(FIRST, Limits())
    running = [stream]
    sharing = asyncio.create_task(Sharer(cast("Any", chunks), lambda: running).run())
    stream.say(DELTA, text="so far")
    await happens(lambda: chunks.ended)
    running.clear()
    await happens(lambda: len(chunks.ended) == 3)
    sharing.cancel()
    assert chunks.ended == [[], ["t-1"], ["t-1"]]
