"""The append on real PostgreSQL: order, conflicts, turns, batches, snapshots."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from application.errors import ConflictError, TurnLostError
from application.ports import Closing
from infrastructure.postgres.appender import NewEvent, Save, Snapshot, Stored
from tests.asking import query
from tests.integration.saves import (
    appending,
    closing_save,
    events,
    new_stream,
    positions,
    running_turn,
    save,
    turn_row,
)


async def test_what_is_stored_is_what_was_given(database_url: str) -> None:
    given = NewEvent("conversation-1", 1, "MessageSaid", "1", "turn-1", "user:änna", b'\x00\xff{"a": 1}')
    async with appending(database_url) as appender:
        stored = await appender.append(Save([given], {"conversation-1": 0}))
    columns = "position, recorded_at, stream, version, type, conversation, turn, actor, data"
    (row,) = query(database_url, f"SELECT {columns} FROM log")
    assert NewEvent(*row[2:]) == given
    assert stored == Stored(1, 1, row[1])


async def test_positions_have_no_gap_and_a_save_stands_together(database_url: str) -> None:
    async with appending(database_url) as appender:
        taken = new_stream()
        await appender.append(save(taken))
        saves = [save(taken) if n % 7 == 0 else save(count=1 + n % 3) for n in range(200)]
        outcomes = await asyncio.gather(*map(appender.append, saves), return_exceptions=True)
    stored = [(s, o) for s, o in zip(saves, outcomes, strict=True) if isinstance(o, Stored)]
    assert len(stored) == 171
    assert positions(database_url) == list(range(1, 2 + sum(len(s.events) for s, _ in stored)))
    ranges = "SELECT stream, min(position), max(position), count(*) FROM log GROUP BY stream"
    kept = {stream: rest for stream, *rest in query(database_url, ranges)}
    for written, outcome in stored:
        (stream,) = written.streams
        assert kept[stream] == [outcome.first_position, outcome.last_position, len(written.events)]


async def test_a_conflict_is_answered_alone_and_its_neighbours_are_stored(database_url: str) -> None:
    batches: list[int] = []
    async with appending(database_url, on_batch=batches.append) as appender:
        taken = new_stream()
        await appender.append(save(taken))
        first, conflict, last = await asyncio.gather(
            appender.append(save()),
            appender.append(save(taken)),
            appender.append(save()),
            return_exceptions=True,
        )
    assert isinstance(first, Stored)
    assert isinstance(conflict, ConflictError)
    assert isinstance(last, Stored)
    assert batches == [1, 2]
    assert positions(database_url) == [1, 2, 3]


async def test_saves_to_one_stream_go_one_after_the_other(database_url: str) -> None:
    stream = new_stream()
    async with appending(database_url) as appender:
        first, same, next_ = await asyncio.gather(
            appender.append(save(stream)),
            appender.append(save(stream)),
            appender.append(save(stream, after=1)),
            return_exceptions=True,
        )
    assert isinstance(first, Stored)
    assert isinstance(same, ConflictError)
    assert isinstance(next_, Stored)
    assert query(database_url, "SELECT version FROM log ORDER BY position") == [(1,), (2,)]


async def test_a_stream_that_was_only_read_conflicts_too(database_url: str) -> None:
    read, written = new_stream(), new_stream()
    async with appending(database_url) as appender:
        await appender.append(save(read))
        with pytest.raises(ConflictError):
            await appender.append(Save(events(written), {written: 0, read: 0}))
        await appender.append(Save(events(written), {written: 0, read: 1}))


async def test_nothing_expected_means_no_such_version_and_no_later_one(database_url: str) -> None:
    stream = new_stream()
    async with appending(database_url) as appender:
        await appender.append(Save(events(stream, after=4), {stream: None}))
        with pytest.raises(ConflictError):
            await appender.append(Save(events(stream, after=3), {stream: None}))
        with pytest.raises(ConflictError):
            await appender.append(Save(events(stream, after=4), {stream: None}))
        with pytest.raises(ConflictError):
            await appender.append(Save(events(stream, after=5) * 2, {stream: None}))
        await appender.append(Save(events(stream, after=5), {stream: None}))


async def test_versions_that_do_not_follow_are_the_callers_mistake(database_url: str) -> None:
    stream = new_stream()
    async with appending(database_url) as appender:
        with pytest.raises(ValueError, match="do not follow 1"):
            await appender.append(Save(events(stream, after=2), {stream: 1}))
        with pytest.raises(ValueError, match="nothing is expected"):
            await appender.append(Save(events(stream), {}))


async def test_the_commit_closes_its_turn(database_url: str) -> None:
    turn = running_turn(database_url)
    async with appending(database_url) as appender:
        await appender.append(save())
        stored = await appender.append(closing_save(turn, count=2))
    row = turn_row(database_url, turn)
    assert (row["state"], row["payload"], row["provisional_frames"]) == ("committed", None, 7)
    assert (row["first_position"], row["last_position"]) == (2, 3)
    assert datetime.fromisoformat(row["ended_at"]) == stored.recorded_at


async def test_a_turn_that_repeats_another_points_to_its_events(database_url: str) -> None:
    turn = running_turn(database_url)
    async with appending(database_url) as appender:
        stored = await appender.append(
            Save([], {}, Closing(turn, 1, 0, first_position=3, last_position=5), "node-1")
        )
    row = turn_row(database_url, turn)
    assert (row["state"], row["first_position"], row["last_position"]) == ("committed", 3, 5)
    assert (stored.first_position, stored.last_position) == (3, 5)


@pytest.mark.parametrize(
    ("attempt", "node"), [(2, "node-1"), (1, "node-2")], ids=["another attempt", "another node"]
)
async def test_a_turn_that_went_to_another_is_not_committed(
    database_url: str, attempt: int, node: str
) -> None:
    turn = running_turn(database_url, attempt, node)
    async with appending(database_url) as appender:
        lost, neighbour = await asyncio.gather(
            appender.append(closing_save(turn)), appender.append(save()), return_exceptions=True
        )
    assert isinstance(lost, TurnLostError)
    assert isinstance(neighbour, Stored)
    assert turn_row(database_url, turn)["state"] == "running"
    assert positions(database_url) == [1]


async def test_an_abandoned_turn_is_not_committed(database_url: str) -> None:
    turn = running_turn(database_url)
    query(database_url, "UPDATE turns SET state = 'abandoned'")
    async with appending(database_url) as appender:
        with pytest.raises(TurnLostError):
            await appender.append(closing_save(turn))
    assert positions(database_url) == []


async def test_a_turn_is_committed_once(database_url: str) -> None:
    turn = running_turn(database_url)
    async with appending(database_url) as appender:
        await appender.append(closing_save(turn))
        with pytest.raises(TurnLostError):
            await appender.append(closing_save(turn))
    assert positions(database_url) == [1, 2]


async def test_a_conflict_leaves_its_turn_running(database_url: str) -> None:
    turn, stream = running_turn(database_url), new_stream()
    async with appending(database_url) as appender:
        with pytest.raises(ConflictError):
            await appender.append(Save(events(stream, after=1), {stream: 1}, Closing(turn, 1, 0), "node-1"))
    assert turn_row(database_url, turn)["state"] == "running"


async def test_times_never_go_back_when_the_clock_does(database_url: str) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    insert = "INSERT INTO log VALUES (1, %s, 1, 's', 't', '', '', '', '')"
    query(database_url, insert, ahead)
    async with appending(database_url) as appender:
        stored = await appender.append(save())
    assert stored.recorded_at == ahead


async def test_a_snapshot_comes_along_and_an_older_one_stays_behind(database_url: str) -> None:
    stream = new_stream()
    async with appending(database_url) as appender:
        for after, version, state in ((0, 5, b"five"), (1, 4, b"four"), (2, 6, b"six")):
            snapshot = Snapshot(stream, version, 1, state)
            await appender.append(Save(events(stream, after), {stream: after}, snapshots=[snapshot]))
            refused = Snapshot(stream, 9, 1, b"never")
            with pytest.raises(ConflictError):
                await appender.append(Save(events(stream, 7), {stream: 7}, snapshots=[refused]))
            if version == 4:
                assert query(database_url, "SELECT version, state FROM snapshots") == [(5, b"five")]
    assert query(database_url, "SELECT version, state FROM snapshots") == [(6, b"six")]


async def test_saves_that_arrive_together_are_written_together_within_bounds(database_url: str) -> None:
    batches: list[int] = []
    async with appending(database_url, on_batch=batches.append, batch_saves=8) as appender:
        await asyncio.gather(*(appender.append(save()) for _ in range(20)))
        await asyncio.gather(*(appender.append(save(data=bytes(3_000_000))) for _ in range(3)))
    assert batches == [8, 8, 4, 2, 1]


async def test_whoever_stops_waiting_does_not_stop_the_append(database_url: str) -> None:
    async with appending(database_url) as appender:
        with psycopg.connect(database_url) as holder:
            holder.execute("SELECT pg_advisory_xact_lock(append_lock())")
            in_flight = asyncio.create_task(appender.append(save()))
            await asyncio.sleep(0.1)
            queued = asyncio.create_task(appender.append(save()))
            await asyncio.sleep(0)
            for waiter in (in_flight, queued):
                waiter.cancel()
            await asyncio.wait([in_flight, queued])
        assert in_flight.cancelled()
        assert queued.cancelled()
        await appender.append(save())
    assert positions(database_url) == [1, 2, 3]


async def test_listeners_are_told_of_the_newest_position(database_url: str) -> None:
    listener = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    async with listener, appending(database_url) as appender:
        await listener.execute("LISTEN minutebook_log")
        await appender.append(save(count=3))
        told = [notify.payload async for notify in listener.notifies(timeout=5, stop_after=1)]
    assert told == ["3"]
