"""Who watches a turn of another process hears it from its first word on, whatever was read before."""

import asyncio
from dataclasses import replace
from typing import Any, cast

from application.errors import StoreUnavailableError
from application.live import LiveFeed
from tests.unit.elsewhere import FIRST, Elsewhere, following, happens, mirrored, speaking, watching


async def test_who_attaches_hears_a_turn_from_its_first_word_although_a_feed_was_there_before() -> None:
    there = Elsewhere()
    live = LiveFeed(cast("Any", there))
    async with mirrored(there, live) as mirrors:
        there.others = [replace(FIRST, turn_id="t-2", conversation_id="c-2")]
        async with watching(mirrors, there.others[0]):  # what is new is looked for already
            speaking(there, FIRST, 1, 30)
            await there.look(2)
            async with following(live, "c-1") as said:
                speaking(there, FIRST, 31, 32)
                await happens(lambda: said[-1:] == [32])
                async with watching(mirrors, FIRST) as heard:
                    speaking(there, FIRST, 33, 34)
                    await happens(lambda: heard == list(range(1, 35)))
                assert said == list(range(1, 35))


async def test_who_begins_to_watch_a_silent_turn_hears_what_it_has_said() -> None:
    there = Elsewhere()
    live = LiveFeed(cast("Any", there))
    async with mirrored(there, live) as mirrors:
        speaking(there, FIRST, 1, 3)
        async with following(live, "c-1") as said:
            await happens(lambda: said == [1, 2, 3])
        async with watching(mirrors, FIRST) as heard:
            await happens(lambda: heard == [1, 2, 3])


async def test_what_was_overlooked_is_read_when_the_turn_goes_on() -> None:
    there, other = Elsewhere(), replace(FIRST, turn_id="t-2", conversation_id="c-2")
    async with mirrored(there) as mirrors, watching(mirrors, FIRST) as heard:
        speaking(there, FIRST, 1, 1)
        await happens(lambda: heard == [1])
        speaking(there, other, 1, 1)
        await there.look(2)
        speaking(there, FIRST, 2, 2)
        there.chunks.insert(1, there.chunks.pop())  # visible late: what was written after it is read already
        await there.look(2)
        assert heard == [1]
        speaking(there, FIRST, 3, 3)
        await happens(lambda: heard == [1, 2, 3])


async def test_after_the_store_was_away_all_that_is_watched_is_read_whole() -> None:
    there = Elsewhere()
    live = LiveFeed(cast("Any", there))
    async with mirrored(there, live) as mirrors, following(live, "c-3"), watching(mirrors, FIRST) as heard:
        speaking(there, FIRST, 1, 1)
        await happens(lambda: heard == [1])
        there.may_read.clear()
        await there.look(1)
        there.failures = [StoreUnavailableError()]
        speaking(there, FIRST, 2, 2)
        there.may_read.set()
        await happens(lambda: heard == [1, 2])
    assert ({"t-1"}, {"c-3"}) in there.read_whole


async def test_conversations_in_which_nothing_is_said_are_asked_for_once() -> None:
    there = Elsewhere()
    live = LiveFeed(cast("Any", there))
    async with mirrored(there, live), following(live, "c-1"), following(live, "c-2"):
        await there.look(5)
    asked = [one for _, conversations in there.read_whole for one in conversations]
    assert sorted(asked) == ["c-1", "c-2"]


async def test_a_turn_that_nobody_watches_any_more_is_not_asked_about() -> None:
    there = Elsewhere()
    live = LiveFeed(cast("Any", there))
    async with mirrored(there, live) as mirrors, following(live, "c-2"):
        async with watching(mirrors, FIRST):
            await there.look(2)
        await there.look(2)
        there.is_asked.clear()
        speaking(there, FIRST, 1, 1)
        await there.look(3)
        assert not there.is_asked.is_set()


async def test_mirroring_goes_on_after_an_error_that_nobody_thought_of() -> None:
    there = Elsewhere()
    async with mirrored(there) as mirrors, watching(mirrors, FIRST) as heard:
        there.failures = [RuntimeError("of a kind that nobody thought of")]
        await happens(lambda: not there.failures)
        speaking(there, FIRST, 1, 1)
        await happens(lambda: heard == [1])


async def test_who_comes_while_chunks_are_being_read_gets_all_that_was_said_before() -> None:
    there, other = Elsewhere(), replace(FIRST, turn_id="t-2", conversation_id="c-2")
    there.others = [other]
    there.says(other, "before anybody watched")
    async with mirrored(there) as mirrors, watching(mirrors, FIRST):
        await there.look(3)
        there.may_read.clear()
        await there.look(1)
        async with watching(mirrors, other) as heard:
            await asyncio.sleep(0)
            there.says(other, "while they were read", 2)
            there.may_read.set()
            await happens(lambda: heard == [1, 2])
