"""Two lanes of the append: one batch is made ready while the server writes another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from application.errors import ConflictError
from infrastructure.postgres.appender import Appender, Stored
from infrastructure.postgres.pace import Took
from tests.asking import query
from tests.integration.saves import appending, new_stream, positions, save

AT_WORK = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'minutebook append' AND state = 'active'"
)


def slow_rows(appender: Appender) -> None:
    """Let the appender believe that the server takes long over rows, and no time over a batch."""
    began_at = datetime.now(UTC)
    for _ in range(100):
        appender._pace.note(Took(1, began_at, began_at + timedelta(seconds=1), 1.001), was_alone=True)


@asynccontextmanager
async def held_up(url: str) -> AsyncIterator[None]:
    """Hold every append up for the length of the block."""
    async with await psycopg.AsyncConnection.connect(url) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(append_lock())")
        yield


async def lanes_at_work(url: str, expected: int) -> int:
    """Return how many lanes are at work, as soon as it is so many."""
    found = -1
    for _ in range(200):
        found = int(query(url, AT_WORK)[0][0])
        if found == expected:
            break
        await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize(("is_slow", "expected"), [(True, 2), (False, 1)], ids=["rows", "flush"])
async def test_a_second_batch_is_sent_where_rows_take_longer_than_the_flush(
    database_url: str, is_slow: bool, expected: int
) -> None:
    async with appending(database_url) as appender:
        await appender.append(save())
        if is_slow:
            slow_rows(appender)
        async with held_up(database_url):
            saving = [asyncio.create_task(appender.append(save(count=2)))]
            assert await lanes_at_work(database_url, 1) == 1
            saving += [asyncio.create_task(appender.append(save(count=2))) for _ in range(3)]
            assert await lanes_at_work(database_url, expected) == expected
            await asyncio.sleep(0.1)
            assert await lanes_at_work(database_url, expected) == expected
        outcomes = await asyncio.gather(*saving)
    assert positions(database_url) == list(range(1, 10))
    assert all(outcome.last_position == (outcome.first_position or 0) + 1 for outcome in outcomes)


async def test_those_who_come_together_are_halved_only_where_that_pays(database_url: str) -> None:
    batches: list[int] = []
    async with appending(database_url, on_batch=batches.append) as appender:
        await asyncio.gather(*(appender.append(save()) for _ in range(10)))
        slow_rows(appender)
        await asyncio.gather(*(appender.append(save()) for _ in range(11)))
    assert batches[0] == 10
    assert sorted(batches[1:]) == [5, 6]


async def test_saves_to_a_stream_that_is_being_written_wait_for_it_in_order(database_url: str) -> None:
    stream, other = new_stream(), new_stream()
    async with appending(database_url) as appender:
        slow_rows(appender)
        async with held_up(database_url):
            writing = asyncio.create_task(appender.append(save(stream)))
            await lanes_at_work(database_url, 1)
            waiting = [
                asyncio.create_task(appender.append(save(*where)))
                for where in ((stream, 1), (stream, 2), (stream, 2), (other, 0))
            ]
            await lanes_at_work(database_url, 2)
        outcomes = await asyncio.gather(writing, *waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Stored, Stored, Stored, ConflictError, Stored]
    versions = query(database_url, "SELECT version FROM log WHERE stream = %s ORDER BY position", stream)
    assert versions == [(1,), (2,), (3,)]


async def test_an_end_stores_what_waits_for_a_stream_that_is_being_written(database_url: str) -> None:
    stream = new_stream()
    async with appending(database_url) as appender:
        slow_rows(appender)
        async with held_up(database_url):
            saving = [asyncio.create_task(appender.append(save(stream, after))) for after in range(4)]
            await lanes_at_work(database_url, 1)
            ending = asyncio.create_task(appender.stop())
            await asyncio.sleep(0.1)
            assert not ending.done()
        async with asyncio.timeout(10):
            await ending
            await asyncio.gather(*saving)
    assert positions(database_url) == [1, 2, 3, 4]


async def test_positions_have_no_gap_with_both_lanes_busy_and_conflicts_among_them(database_url: str) -> None:
    async with appending(database_url) as appender:
        slow_rows(appender)
        taken = new_stream()
        await appender.append(save(taken))

        async def talk(number: int) -> int:
            stream, stored = new_stream(), 0
            for after in range(20):
                if (number + after) % 7 == 0:
                    with pytest.raises(ConflictError):
                        await appender.append(save(taken))
                await appender.append(save(stream, after))
                stored += 1
            return stored

        stored = sum(await asyncio.gather(*map(talk, range(24))))
    assert positions(database_url) == list(range(1, 2 + stored))
