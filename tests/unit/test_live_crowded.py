"""A page of the log is gone through once, however many conversations or owners are watched."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from application.live import LiveFeed
from application.subscription import FeedItem
from tests.unit.test_live_forget import Log, said

EVENTS = [said(number + 1, f"c{number}", "hello") for number in range(1000)]


class OfMany(Log):
    """A log in which each conversation belongs to somebody else."""

    async def owner_of(self, conversation_id: str) -> str | None:
        return f"owner of {conversation_id}"


@asynccontextmanager
async def crowded(by: str, readers: int) -> AsyncIterator[tuple[LiveFeed, list[list[FeedItem]]]]:
    """A feed with readers, each of one conversation or of all of one's own, and what they were given.

    One more reads everything: no event is passed over.
    """
    live, given = LiveFeed(OfMany()), [list[FeedItem]() for _ in range(readers + 1)]

    async def read(number: int) -> None:
        who = {by: f"c{number}" if by == "conversation_id" else f"owner of c{number}"}
        async for items in live.watch(0, **(who if number < readers else {})):  # type: ignore[arg-type]
            given[number].extend(items)

    reading = [asyncio.create_task(read(number)) for number in range(readers + 1)]
    await asyncio.sleep(0.05)
    yield live, given
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def cost(by: str, readers: int) -> float:
    """Return the processor seconds that a page takes."""
    async with crowded(by, readers) as (live, _):
        await live.publish(EVENTS)  # whose they are is known from now on
        costs = []
        for _ in range(3):
            began = time.process_time()
            await live.publish(EVENTS)
            costs.append(time.process_time() - began)
        return min(costs)


@pytest.mark.parametrize("by", ["conversation_id", "owner"])
async def test_a_page_costs_what_is_in_it_and_not_that_times_what_is_watched(by: str) -> None:
    assert await cost(by, 1000) < 3 * await cost(by, 20)


@pytest.mark.parametrize("by", ["conversation_id", "owner"])
async def test_each_reader_is_given_their_own_events_of_a_page_in_order(by: str) -> None:
    page = [*EVENTS[:3], *(said(position, f"c{position % 3}", "again") for position in range(1001, 1010))]
    async with crowded(by, 3) as (live, given):
        await live.publish(page)
        await asyncio.sleep(0.05)
    for number, items in enumerate(given[:3]):
        own = [event.position for event in page if event.conversation_id == f"c{number}"]
        assert [item.position for item in items] == own
