"""The append when something breaks: nothing is lost, nothing is stored twice, and it goes on by itself."""

import asyncio
import time
from pathlib import Path

import psycopg
import pytest

from application.errors import StoreUnavailableError
from domain.errors import MinutebookError
from infrastructure.postgres import schema
from infrastructure.postgres.appender import NewEvent, Save, Stored
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.asking import query
from tests.integration.saves import (
    CuttingProxy,
    appending,
    closing_save,
    new_stream,
    positions,
    running_turn,
    save,
    turn_row,
)

LOCK = "SELECT pg_advisory_xact_lock(append_lock())"
OURS = "pg_stat_activity WHERE application_name = 'minutebook append' AND datname = current_database()"
WAITING = f"SELECT pid FROM {OURS} AND wait_event = 'advisory'"
TERMINATE = f"SELECT pg_terminate_backend(pid) FROM {OURS}"


async def until_waiting(url: str, count: int = 1) -> None:
    deadline = time.monotonic() + 5
    while len(query(url, WAITING)) < count:
        assert time.monotonic() < deadline, "no append ever waited for the lock"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("closes_a_turn", [True, False], ids=["with a turn", "without a turn"])
@pytest.mark.parametrize(
    ("direction", "verdict"),
    [("out", "cut"), ("in", "cut"), ("in", "drop"), ("in", "late")],
    ids=["answer lost", "cut behind the statement", "statement lost", "statement late"],
)
async def test_a_lost_acknowledgement_is_settled(
    database_url: str, direction: str, verdict: str, closes_a_turn: bool
) -> None:
    turn = running_turn(database_url)
    async with CuttingProxy(database_url) as proxy, appending(proxy.url) as appender:
        await appender.append(save())  # connected, prepared
        proxy.once(direction, verdict)
        stored = await appender.append(closing_save(turn) if closes_a_turn else save(count=2))
        proxy.late.set()
        await appender.append(save())
        await asyncio.sleep(0.1)
    assert proxy.cuts == 1
    assert (stored.first_position, stored.last_position) == (2, 3)
    assert positions(database_url) == [1, 2, 3, 4]
    assert turn_row(database_url, turn)["state"] == ("committed" if closes_a_turn else "running")


async def test_a_statement_that_still_waits_in_the_server_is_waited_for(database_url: str) -> None:
    turn = running_turn(database_url)
    async with CuttingProxy(database_url) as proxy, appending(proxy.url) as appender:
        await appender.append(save())
        with psycopg.connect(database_url) as holder:
            holder.execute(LOCK)
            proxy.once("in", "cut")
            waiting = asyncio.create_task(appender.append(closing_save(turn)))
            await until_waiting(database_url, 2)
        stored = await waiting
    assert (stored.first_position, stored.last_position) == (2, 3)
    assert positions(database_url) == [1, 2, 3]


async def test_every_save_of_a_batch_in_doubt_is_answered_for_itself(database_url: str) -> None:
    async with CuttingProxy(database_url) as proxy, appending(proxy.url) as appender:
        taken = new_stream()
        await appender.append(save(taken))
        proxy.once("out", "cut")
        outcomes = await asyncio.gather(
            *(appender.append(each) for each in (save(), save(taken, data=b"other"), save(count=3))),
            return_exceptions=True,
        )
    assert [getattr(outcome, "code", "stored") for outcome in outcomes] == ["stored", "conflict", "stored"]
    assert positions(database_url) == [1, 2, 3, 4, 5]


async def test_an_outcome_nobody_can_tell_in_time_is_unavailable(database_url: str) -> None:
    async with CuttingProxy(database_url) as proxy, appending(proxy.url, settle_s=0.5) as appender:
        await appender.append(save())
        proxy.verdict = lambda direction, _: "cut" if direction == "out" else "pass"
        with pytest.raises(StoreUnavailableError):
            await appender.append(save())
        proxy.let_pass()
        await appender.append(save())


async def test_a_killed_connection_is_replaced(database_url: str) -> None:
    async with appending(database_url) as appender:
        await appender.append(save())
        query(database_url, TERMINATE)
        await appender.append(save())
    assert positions(database_url) == [1, 2]


async def test_a_connection_killed_in_the_middle_stores_once(database_url: str) -> None:
    async with appending(database_url) as appender:
        await appender.append(save())
        with psycopg.connect(database_url) as holder:
            holder.execute(LOCK)
            waiting = asyncio.create_task(appender.append(save()))
            await until_waiting(database_url)
            query(database_url, TERMINATE)
            await until_waiting(database_url)  # the question what became of it
        await waiting
    assert positions(database_url) == [1, 2]


async def test_a_statement_timeout_is_answered_at_once_and_stores_nothing(database_url: str) -> None:
    async with appending(database_url, statement_timeout_s=0.2) as appender:
        await appender.append(save())
        with psycopg.connect(database_url) as holder:
            holder.execute(LOCK)
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await appender.append(save())
            assert time.monotonic() - started < 2
        assert positions(database_url) == [1]
        await appender.append(save())


async def test_a_save_the_database_cannot_hold_does_not_take_its_neighbours_down(database_url: str) -> None:
    stream = new_stream()
    impossible = Save([NewEvent(stream, 1, "a\0b", "", "", "", b"")], {stream: 0})
    async with appending(database_url) as appender:
        first, bad, last = await asyncio.gather(
            *map(appender.append, (save(), impossible, save())), return_exceptions=True
        )
    assert isinstance(first, Stored)
    assert type(bad) is MinutebookError
    assert isinstance(last, Stored)
    assert positions(database_url) == [1, 2]


async def test_a_server_that_is_not_there_yet_is_waited_for_and_then_unavailable() -> None:
    nowhere = "postgresql://127.0.0.1:1/nothing"
    stream = new_stream()  # one stream: five batches, and they do not wait in turn
    async with appending(nowhere, settle_s=1) as appender:
        started = time.monotonic()
        outcomes = await asyncio.gather(
            *(appender.append(save(stream)) for _ in range(5)), return_exceptions=True
        )
        assert 0.5 < time.monotonic() - started < 4
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 5


async def test_a_stopped_server_is_unavailable_and_a_started_one_is_found(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder / "data", settings={"fsync": "off"})
    url = await asyncio.to_thread(server.start)
    try:
        await asyncio.to_thread(schema.migrate, url)
        async with appending(url, settle_s=0.5) as appender:
            await appender.append(save())
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailableError):
                await appender.append(save())
            await asyncio.to_thread(server.start)
            await appender.append(save())
        assert await asyncio.to_thread(positions, url) == [1, 2]
    finally:
        await asyncio.to_thread(server.stop)


async def test_after_the_stop_nothing_is_taken_and_what_was_given_is_stored(database_url: str) -> None:
    async with appending(database_url) as appender:
        given = [asyncio.create_task(appender.append(save())) for _ in range(5)]
        await asyncio.sleep(0)
    assert all([await task for task in given])
    with pytest.raises(StoreUnavailableError):
        await appender.append(save())
