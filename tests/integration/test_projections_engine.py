"""Read models follow the log exactly once, are rebuilt for a newer fold, and are handed over."""

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from infrastructure.postgres.batch import NewEvent
from infrastructure.projections import follow
from infrastructure.projections.read_model import ReadModel
from tests.asking import query
from tests.forking import FORKS
from tests.projecting import (
    Counting,
    CountingTwice,
    Other,
    Slow,
    checkpoint,
    held,
    host,
    is_at,
    projecting,
    reference,
    store,
    tables_left,
    talks,
    wait_until,
)
from tests.reading import catch_up

pytestmark = pytest.mark.may_block("the test itself asks the database; the projector has a thread of its own")


async def test_a_read_model_is_made_and_caught_up_and_follows(database_url: str) -> None:
    model = Counting()
    head = store(database_url, talks(100))
    async with projecting(database_url, model):
        wait_until(is_at(database_url, model, head))
        head = store(database_url, talks(3, first=100))
        wait_until(is_at(database_url, model, head))
    contents = held(database_url, model)
    assert contents == reference(database_url, model)
    assert len(contents["counts"]) == 103


async def test_types_that_nobody_knows_and_other_applications_are_passed_over(database_url: str) -> None:
    model = Counting()
    newer = [NewEvent("conversation-x", 1, "conversation.dreamt", "x", "", "", b'{"class_version": 9}')]
    head = store(database_url, [*newer, *talks(1), NewEvent("s", 1, "Else", "", "", "", b"\xff not JSON")])
    async with projecting(database_url, model):
        wait_until(is_at(database_url, model, head))
    assert held(database_url, model) == reference(database_url, model)


BUILT = "SELECT 1 FROM rebuilds WHERE part = -1"


async def test_a_newer_fold_is_built_in_the_background_while_the_old_rows_answer(database_url: str) -> None:
    head = store(database_url, talks(20))
    catch_up(database_url, Counting())
    old = held(database_url, Counting())
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT FROM counts")  # the swap has to wait for it
        async with projecting(database_url, CountingTwice()):
            wait_until(lambda: bool(query(database_url, BUILT)))
            assert held(database_url, Counting()) == old
            before = checkpoint(database_url, "counting")
            assert (before["version"], before["state"], before["position"]) == (1, "rebuilding", head)
            reader.rollback()
            wait_until(lambda: checkpoint(database_url, "counting")["version"] == 2)
            head = store(database_url, talks(2, first=20))
            wait_until(is_at(database_url, CountingTwice(), head))
    assert held(database_url, CountingTwice()) == reference(database_url, CountingTwice())
    assert tables_left(database_url) == []


async def test_an_older_program_leaves_the_tables_of_a_newer_one_alone(database_url: str) -> None:
    head = store(database_url, talks(5))
    catch_up(database_url, CountingTwice())
    later = store(database_url, talks(5, first=5))
    async with projecting(database_url, Counting(), Other()):
        wait_until(is_at(database_url, Other(), later))  # its turn comes after the other one's
    assert checkpoint(database_url, "counting")["position"] == head
    assert held(database_url, CountingTwice()) == reference(database_url, CountingTwice(), head)


def hosting(url: str, model: ReadModel, claim_s: float = follow._CLAIM_S) -> Any:
    """Start such a process, and wait until it is there."""
    before = projectors(url)
    process = FORKS.Process(target=host, args=(url, model, claim_s), daemon=True)
    process.start()
    wait_until(lambda: bool(projectors(url) - before))  # one that was just killed may still be there
    return process


def test_a_projector_killed_at_any_moment_loses_and_repeats_nothing(database_url: str) -> None:
    """Killed 20 times in the middle of its work; the next one, who is there, goes on within 5 seconds."""
    chance, head, killed_at = random.Random(7), 0, 0
    victim = hosting(database_url, Slow(), 0.1)
    for kill in range(20):
        following = hosting(database_url, Slow(), 0.1)
        before = checkpoint(database_url, "counting").get("position", 0)
        head = store(database_url, talks(40, first=40 * kill))
        wait_until(has_passed(database_url, before), timeout_s=5)
        time.sleep(chance.uniform(0, 0.1))
        victim.kill()
        victim.join()
        killed_at = checkpoint(database_url, "counting")["position"]
        assert killed_at < head, "it was not killed in the middle"
        victim = following
    wait_until(has_passed(database_url, killed_at), timeout_s=5)
    victim.kill()
    victim.join()
    last = hosting(database_url, Counting())
    wait_until(is_at(database_url, Counting(), head), timeout_s=60)
    last.kill()
    last.join()
    assert held(database_url, Counting()) == reference(database_url, Counting())


def has_passed(url: str, position: int) -> Callable[[], bool]:
    return lambda: checkpoint(url, "counting").get("position", 0) > position


def test_another_process_takes_over_within_5_seconds(database_url: str) -> None:
    model = Counting()
    first = hosting(database_url, model)
    wait_until(is_at(database_url, model, store(database_url, talks(1))))
    second = hosting(database_url, model)
    first.kill()
    first.join()
    wait_until(is_at(database_url, model, store(database_url, talks(1, first=1))), timeout_s=5)
    second.kill()
    second.join()


def projectors(url: str) -> set[int]:
    """Return the server's processes that serve projectors."""
    rows = query(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'minutebook projections'",
    )
    return {pid for (pid,) in rows}


class Noting(Counting):
    """Notes which events it has folded, whoever has let it."""

    def __init__(self, folded: list[int]) -> None:
        self._folded = folded

    def fold(self, rows: Any, event: Any) -> None:
        self._folded.append(event.position)
        super().fold(rows, event)


async def test_two_that_host_a_read_model_do_no_work_twice(database_url: str) -> None:
    """Each event is folded by one of them, also when the one that does it leaves."""
    folded: list[int] = []
    head = 0
    async with projecting(database_url, Noting(folded)), contextlib.AsyncExitStack() as other:
        for number in range(5):
            head = store(database_url, talks(3, first=3 * number))
            wait_until(is_at(database_url, Counting(), head))
            if not number:
                await other.enter_async_context(projecting(database_url, Noting(folded)))
    async with projecting(database_url, Noting(folded)), projecting(database_url, Noting(folded)):
        head = store(database_url, talks(3, first=15))
        wait_until(is_at(database_url, Counting(), head))
    wanted = query(database_url, "SELECT position FROM log WHERE type = ANY(%s)", sorted(Counting.types))
    assert sorted(folded) == sorted(position for (position,) in wanted)
    assert held(database_url, Counting()) == reference(database_url, Counting())
