"""A turn that runs elsewhere is watched here up to its one end, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from application.errors import StoreUnavailableError
from application.frames import COMMITTED, DELTA, FAILED, Frame, frame
from application.live import LiveFeed
from application.ports import Limits, TurnRow
from application.sharing import Chunk, Mirrors

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
            taken, self.chunks = self.chunks, []
            return taken, asked[2]
        if self.failing_reads:  # the log: from one position to another
            self.failing_reads -= 1
            raise StoreUnavailableError
        return []


@asynccontextmanager
async def mirrored(there: Elsewhere) -> AsyncIterator[Mirrors]:
    store = cast("Any", there)
    mirrors = Mirrors(store, store, store, LiveFeed(store), Limits())
    looking = asyncio.create_task(mirrors.run())
    try:
        yield mirrors
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


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
