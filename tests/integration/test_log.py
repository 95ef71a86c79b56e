"""Reading the log as it is stored."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from application.errors import StoreUnavailableError
from application.ports import LoggedEvent
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.pool import create_pool, open_pool
from infrastructure.postgres.rows import Row
from tests.asking import query
from tests.integration.saves import appending, new_stream, save


def decoded(row: Row) -> LoggedEvent:
    return LoggedEvent(
        row.position, row.stream, row.version, row.type, row.conversation, row.turn, row.actor,
        row.recorded_at,
        {"text": row.data.decode()},
    )  # fmt: skip


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[PostgresLog]:
    async with open_pool(database_url) as pool:
        yield PostgresLog(pool, decoded)


async def test_an_empty_log_has_the_head_zero(log: PostgresLog) -> None:
    assert await log.head() == 0
    assert await log.read(1, 10) == []


async def test_a_range_is_read_in_order_with_both_ends(log: PostgresLog, database_url: str) -> None:
    async with appending(database_url) as appender:
        for text in (b"one", b"two", b"three", b"four"):
            await appender.append(save(data=text))
    assert await log.head() == 4
    assert [(event.position, event.data["text"]) for event in await log.read(2, 3)] == [
        (2, "two"),
        (3, "three"),
    ]
    assert [row.data for row in await log.rows(4, 99)] == [b"four"]


async def test_a_stream_is_walked_backwards_page_by_page(log: PostgresLog, database_url: str) -> None:
    stream = new_stream()
    async with appending(database_url) as appender:
        await appender.append(save(stream, count=5))
        await appender.append(save(count=5))
    assert [row.version async for row in log.newest_first(stream, size=2)] == [5, 4, 3, 2, 1]
    assert [row.version async for row in log.newest_first(stream, before=3, size=2)] == [2, 1]
    assert [row.version for row in await log.page_backwards(stream, None, 2)] == [5, 4]


async def test_a_connection_that_died_in_the_pool_hurts_nobody(log: PostgresLog, database_url: str) -> None:
    await log.head()
    await asyncio.to_thread(
        query,
        database_url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"  # waits until it is gone
        " WHERE application_name = 'minutebook' AND datname = current_database()",
    )
    assert await log.head() == 0


async def test_an_unreachable_database_is_unavailable_and_says_nothing_about_it() -> None:
    pool = create_pool("postgresql://somebody:secret@127.0.0.1:1/nothing", wait_s=0.2)
    await pool.open(wait=False)
    try:
        with pytest.raises(StoreUnavailableError) as refusal:
            await PostgresLog(pool, decoded).head()
    finally:
        await pool.close()
    assert str(refusal.value) == StoreUnavailableError.__doc__


async def test_a_statement_that_fails_is_unavailable_and_shows_no_sql(
    log: PostgresLog, database_url: str
) -> None:
    query(database_url, "DROP VIEW log_head")
    with pytest.raises(StoreUnavailableError) as refusal:
        await log.head()
    assert "log_head" not in str(refusal.value)


@pytest.mark.parametrize(
    "filter_", ["type = 'rare'", "type = 'often'", "actor = 'user:7'", "conversation = 'c7'"]
)
def test_a_page_of_a_filter_is_a_walk_along_an_index(database_url: str, filter_: str) -> None:
    query(
        database_url,
        "INSERT INTO log SELECT n, now(), n, 's', CASE WHEN n % 2000 = 0 THEN 'rare' ELSE 'often' END,"
        " 'c' || n / 9, '', 'user:' || n % 500, '' FROM generate_series(1, 40000) AS n",
    )
    query(database_url, "ANALYZE log")
    page = (
        f"SELECT * FROM log WHERE {filter_} AND position >> 12 >= 60 >> 12 AND position > 60"
        " ORDER BY position >> 12, position LIMIT 50"
    )
    ((plan,),) = query(database_url, f"EXPLAIN (ANALYZE, FORMAT JSON) {page}")
    assert "Seq Scan" not in str(plan)
    assert most_rows(plan[0]["Plan"]) <= 4096 + 50


def most_rows(plan: dict[str, Any]) -> float:
    below = [most_rows(child) for child in plan.get("Plans", ())]
    return max([float(plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)), *below])
