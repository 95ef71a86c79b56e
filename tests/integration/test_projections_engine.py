"""Read models follow the log exactly once, stop alone, go on after the fix, and are handed over."""

import asyncio
import signal
import threading
from multiprocessing import get_context
from typing import Any

import pytest

from infrastructure.postgres.batch import NewEvent
from infrastructure.projections import checkpoints
from infrastructure.projections.connecting import connect
from infrastructure.projections.follow import Projector
from infrastructure.projections.read_model import ReadModel
from tests.projecting import (
    Counting,
    CountingTwice,
    checkpoint,
    happened,
    held,
    is_at,
    projecting,
    reference,
    store,
    tables_left,
    wait_until,
    woven,
)
from tests.unit.commands import Command

pytestmark = pytest.mark.may_block("the test itself asks the database; the projector has a thread of its own")

TALK: list[Command] = [
    ("receive_user_message", ("m1", "one")),
    ("rename", ("a title",)),
    ("archive", ()),
    ("reopen", ()),
    ("receive_user_message", ("m2", "two\0 \ud800 half")),
]


def talks(count: int, first: int = 0) -> list[NewEvent]:
    return woven([happened(f"c{number}", TALK) for number in range(first, first + count)])


async def test_a_read_model_is_made_and_caught_up_and_follows(database_url: str) -> None:
    model = Counting()
    head = store(database_url, talks(300))
    async with projecting(database_url, model):
        wait_until(is_at(database_url, model, head))
        head = store(database_url, talks(3, first=300))
        wait_until(is_at(database_url, model, head))
    contents = held(database_url, model)
    assert contents == reference(database_url, model)
    assert len(contents["counts"]) == 303


async def test_types_that_nobody_knows_and_other_applications_are_passed_over(database_url: str) -> None:
    model = Counting()
    newer = [NewEvent("conversation-x", 1, "conversation.dreamt", "x", "", "", b'{"class_version": 9}')]
    head = store(database_url, [*newer, *talks(1), NewEvent("s", 1, "Else", "", "", "", b"\xff not JSON")])
    async with projecting(database_url, model):
        wait_until(is_at(database_url, model, head))
    assert held(database_url, model) == reference(database_url, model)


async def test_a_newer_fold_is_built_in_the_background_while_the_old_rows_answer(database_url: str) -> None:
    head = store(database_url, talks(50))
    async with projecting(database_url, Counting()):
        wait_until(is_at(database_url, Counting(), head))
    old = held(database_url, Counting())
    seen: list[Any] = []
    async with projecting(database_url, CountingTwice()):
        while checkpoint(database_url, "counting")["version"] == 1:
            seen.append(held(database_url, Counting()) == old)
            await asyncio.sleep(0.05)
            assert len(seen) < 400
        head = store(database_url, talks(2, first=50))
        wait_until(is_at(database_url, CountingTwice(), head))
    assert any(seen)
    assert held(database_url, CountingTwice()) == reference(database_url, CountingTwice())
    assert tables_left(database_url) == []


async def test_an_older_program_leaves_the_tables_of_a_newer_one_alone(database_url: str) -> None:
    head = store(database_url, talks(5))
    async with projecting(database_url, CountingTwice()):
        wait_until(is_at(database_url, CountingTwice(), head))
    store(database_url, talks(5, first=5))
    async with projecting(database_url, Counting()):
        await asyncio.sleep(1)
    assert checkpoint(database_url, "counting")["position"] == head
    assert held(database_url, CountingTwice()) == reference(database_url, CountingTwice(), head)


def host(url: str, model: ReadModel) -> None:
    """A process that does nothing else."""
    asyncio.run(Projector(url, [model]).start())
    threading.Event().wait()


def test_a_projector_killed_at_any_moment_loses_and_repeats_nothing(database_url: str) -> None:
    """Killed 20 times while events come in; the next one goes on within 5 seconds."""
    model = Counting()
    context = get_context("spawn")
    head, number = 0, 0
    processes = [context.Process(target=host, args=(database_url, model), daemon=True) for _ in range(21)]
    for process in processes[:2]:
        process.start()
    for kill in range(20):
        for _ in range(4 + kill % 5):
            head = store(database_url, talks(3 + kill, first=number))
            number += 3 + kill
        victim = processes[kill]
        if kill + 2 < len(processes):
            processes[kill + 2].start()
        else:  # another can go on only where there is another
            wait_until(lambda: sum_of_projectors(database_url) == 2, timeout_s=60)
        assert victim.pid is not None
        victim.kill()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
    last = checkpoint(database_url, model.name).get("position", 0)
    wait_until(
        lambda: last == head or checkpoint(database_url, model.name).get("position", 0) > last, timeout_s=5
    )
    wait_until(is_at(database_url, model, head), timeout_s=60)
    processes[-1].kill()
    processes[-1].join()
    assert held(database_url, model) == reference(database_url, model)


def test_another_process_takes_over_within_5_seconds(database_url: str) -> None:
    model = Counting()
    context = get_context("spawn")
    first, second = (context.Process(target=host, args=(database_url, model), daemon=True) for _ in range(2))
    first.start()
    wait_until(is_at(database_url, model, store(database_url, talks(1))))
    second.start()
    wait_until(lambda: sum_of_projectors(database_url) == 2)
    first.kill()
    wait_until(is_at(database_url, model, store(database_url, talks(1, first=1))), timeout_s=5)
    second.kill()


def sum_of_projectors(url: str) -> int:
    with connect(url, "test") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'minutebook projections'"
        ).fetchone()
    return int(row[0]) if row else 0


def test_two_processes_do_no_work_twice(database_url: str) -> None:
    """Only one holds the right to let a read model follow."""
    with connect(database_url, "test") as one, connect(database_url, "test") as other:
        assert checkpoints.try_lock(one, "follow", "counting")
        assert not checkpoints.try_lock(other, "follow", "counting")
        assert checkpoints.try_lock(other, "follow", "other")
