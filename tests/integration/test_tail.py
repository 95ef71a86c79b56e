"""Whoever follows the log by position misses nothing of what several processes write."""

import asyncio
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from random import random

import psycopg
import pytest

from infrastructure.postgres.appender import Appender
from tests.asking import query
from tests.integration.saves import save

SECONDS = float(os.environ.get("MINUTEBOOK_TAIL_SECONDS", "30"))
WRITERS = 4
Seen = list[tuple[int, str, int]]


def append_to_the_log(url: str, seconds: float) -> None:
    os.nice(5)  # other tests come first

    async def write(appender: Appender, until: float) -> None:
        while time.monotonic() < until:
            for _ in range(int(random() * 30)):
                await appender.append(save(count=1 + int(random() * 4)))
            await asyncio.sleep(random())  # a crowd at times, hardly anybody at others

    async def write_all() -> None:
        appender = Appender(url)
        await appender.start()
        async with asyncio.TaskGroup() as writers:
            for _ in range(8):
                writers.create_task(write(appender, time.monotonic() + seconds))
        await appender.stop()

    asyncio.run(write_all())


def insert_with_a_sequence(url: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    with psycopg.connect(url) as connection:
        while time.monotonic() < until:
            connection.execute("INSERT INTO naive (stream, version) VALUES ('s', 1)")
            time.sleep(random() / 500)  # what else a transaction may have to do
            connection.commit()


def tail(url: str, table: str, writer: Callable[[str, float], None], seconds: float) -> tuple[Seen, Seen]:
    """Let the writers write; return what a reader saw that polls for newer positions, and what is there."""
    context = get_context("spawn")
    writers: list[SpawnProcess] = [
        context.Process(target=writer, args=(url, seconds)) for _ in range(WRITERS)
    ]
    for process in writers:
        process.start()
    try:
        seen = follow(url, table, writers)
    finally:
        for process in writers:
            process.join()
    assert [process.exitcode for process in writers] == [0] * WRITERS
    return seen, query(url, f"SELECT position, stream, version FROM {table} ORDER BY position")


def follow(url: str, table: str, writers: list[SpawnProcess]) -> Seen:
    newer = f"SELECT position, stream, version FROM {table} WHERE position > %s ORDER BY position LIMIT 1000"
    seen: Seen = []
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            last_look = not any(process.is_alive() for process in writers)
            rows = connection.execute(newer.encode(), [seen[-1][0] if seen else 0]).fetchall()
            seen += rows
            if last_look and not rows:
                return seen
            if not rows:
                time.sleep(0.001)


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
@pytest.mark.timeout(SECONDS + 90)
def test_a_reader_that_polls_misses_nothing_of_what_four_processes_write(database_url: str) -> None:
    seen, there = tail(database_url, "log", append_to_the_log, SECONDS)
    assert len(there) > 100 * SECONDS
    assert [position for position, _, _ in seen] == list(range(1, len(there) + 1))
    assert seen == there


def test_the_same_reader_does_miss_events_when_positions_come_from_a_sequence(database_url: str) -> None:
    query(database_url, "CREATE TABLE naive (position bigserial PRIMARY KEY, stream text, version int)")
    seen, there = tail(database_url, "naive", insert_with_a_sequence, 2)
    assert len(seen) < len(there)
