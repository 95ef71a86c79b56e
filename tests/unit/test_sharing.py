"""A turn that runs elsewhere is watched here up to its one end, whatever happens meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from application.errors import StoreUnavailableError
from application.frames import COMMITTED, DELTA, FAILED, Frame
from application.live import LiveFeed
from application.ports import Limits, TurnRow
from application.sharing import Chunk, Mirrors, Sharer
from application.stream import TurnStream
from application.subscription import FeedItem
from tests.unit.elsewhere import FIRST, SECOND, Elsewhere, happens, mirrored


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


# --- sharing ---------------------------------------------------------------------------------------


class Flaky:
    """A place for chunks that fails once."""

    def __init__(self, failure: type[Exception] = StoreUnavailableError) -> None:
        self.ended: list[Sequence[str]] = []
        self._failure = failure

    async def keep(self, _: Sequence[Chunk], ended: Sequence[str]) -> None:
        self.ended.append(ended)
        if ended and len(self.ended) == 2:
            raise self._failure


@pytest.mark.parametrize("failure", [StoreUnavailableError, RuntimeError])
async def test_chunks_of_a_turn_that_is_over_are_cleared_although_that_failed_once(
    failure: type[Exception],
) -> None:
    chunks, stream = Flaky(failure), TurnStream(FIRST, Limits())
    running = [stream]
    sharing = asyncio.create_task(Sharer(cast("Any", chunks), lambda: running).run())
    stream.say(DELTA, text="so far")
    await happens(lambda: chunks.ended)
    running.clear()
    await happens(lambda: len(chunks.ended) == 3)
    sharing.cancel()
    assert chunks.ended == [[], ["t-1"], ["t-1"]]


async def test_what_is_over_when_sharing_ends_is_cleared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, stream = Flaky(), TurnStream(FIRST, Limits())
    running = [stream]
    sharing = asyncio.create_task(Sharer(cast("Any", chunks), lambda: running).run())
    stream.say(DELTA, text="so far")
    await happens(lambda: chunks.ended)
    monkeypatch.setattr("application.sharing.SHARE_S", 60)
    await asyncio.sleep(0.1)  # the next round waits for a minute now
    running.clear()
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    assert chunks.ended[-1] == ["t-1"]
