"""A rebuild that is killed, cancelled or held up ends soon, leaves nothing, and goes on where it was."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infrastructure.postgres.key_store import settle_master
from infrastructure.projections import checkpoints
from infrastructure.projections.connecting import connect
from infrastructure.projections.rebuild import Progress, Rebuild, RebuildRunningError
from infrastructure.projections.yielding import pauses
from tests.asking import query
from tests.command_line import minutebook
from tests.opened import vault
from tests.projecting import (
    Counting,
    CountingTwice,
    Slow,
    checkpoint,
    held,
    projecting,
    reference,
    store,
    tables_left,
    talks,
    wait_until,
)
from tests.reading import catch_up

pytestmark = pytest.mark.may_block("the test itself asks the database; nothing else runs on its loop")

RANGE = 300
RANGES = "SELECT min(position), max(position), max(target) FROM rebuilds WHERE part >= 0"
WAITING_LOADER = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'minutebook rebuild write' AND wait_event_type = 'Lock'"
)

CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'minutebook rebuild %'"
)


def rebuild_slowly(url: str) -> None:
    Rebuild(url, Slow(), range_=RANGE).run()


def killed_behind(url: str, position: int) -> int:
    """Kill a rebuild that has got further than this; returns how far its quickest worker has got."""
    process = get_context("spawn").Process(target=rebuild_slowly, args=(url,))
    process.start()
    wait_until(lambda: (query(url, RANGES)[0][1] or 0) > position, timeout_s=60)
    process.kill()
    process.join()
    slowest, quickest, target = query(url, RANGES)[0]
    assert slowest < target, "it was not killed in the middle"
    return int(quickest)


class Run(threading.Thread):
    """A rebuild beside the test, which may be cancelled."""

    def __init__(self, url: str, **more: Any) -> None:
        super().__init__(daemon=True)
        self.cancelled = threading.Event()
        self.phases: list[str] = []
        self.result: int | Exception | None = None
        given = {"on_progress": self._note, "is_cancelled": self.cancelled.is_set, **more}
        self._rebuild = Rebuild(url, Counting(), **given)

    def _note(self, step: Progress) -> None:
        self.phases.append(step.phase)

    def run(self) -> None:
        try:
            self.result = self._rebuild.run()
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.result = error


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
def test_a_rebuild_killed_while_it_loads_is_resumed_and_leaves_nothing(database_url: str) -> None:
    """Killed three times; its workers are not waited for, and may still end what they were at."""
    store(database_url, talks(150))
    catch_up(database_url, Counting())
    query(database_url, "UPDATE counts SET events = 0")
    reached = 0
    for _ in range(3):
        reached = killed_behind(database_url, reached)
    ((generation,),) = query(database_url, "SELECT DISTINCT generation FROM rebuilds")
    Rebuild(database_url, Counting(), range_=RANGE).run()
    assert query(database_url, "SELECT last_value FROM projection_generations") == [(generation,)]
    assert held(database_url, Counting()) == reference(database_url, Counting())
    assert tables_left(database_url) == []
    assert query(database_url, "SELECT * FROM rebuilds") == []


def test_what_a_worker_of_a_killed_rebuild_still_writes_is_gone_on_from(database_url: str) -> None:
    head = store(database_url, talks(30))
    begun = Rebuild(database_url, Counting(), is_cancelled=lambda: True, range_=RANGE)
    begun.run()
    with connect(database_url, "test") as reading, connect(database_url, "test") as writing:
        part, *_ = parts = begun._parts(writing)
        ((generation,),) = query(database_url, "SELECT DISTINCT generation FROM rebuilds")
        with writing.transaction():
            begun._loader(part, generation, len(parts))().load(reading, writing, 0, RANGE // 3)
            resumed = Run(database_url, range_=RANGE)
            resumed.start()
            wait_until(lambda: bool(query(database_url, WAITING_LOADER)))
    resumed.join()
    assert resumed.result == head
    assert held(database_url, Counting()) == reference(database_url, Counting())


def test_a_rebuild_whose_database_goes_away_goes_on_where_it_was(database_url: str) -> None:
    head = store(database_url, talks(150))

    def cut(step: Progress) -> None:
        if step.phase == "loading" and step.position > 0:
            query(database_url, CUT)

    with pytest.raises(psycopg.OperationalError):
        Rebuild(database_url, Slow(), range_=RANGE, on_progress=cut).run()
    assert query(database_url, RANGES)[0][1] >= RANGE
    assert Rebuild(database_url, Counting(), range_=RANGE).run() == head
    assert held(database_url, Counting()) == reference(database_url, Counting())
    assert tables_left(database_url) == []


def test_the_command_says_in_our_words_that_the_database_went_away(database_url: str, tmp_path: Path) -> None:
    store(database_url, talks(3))
    settle_master(database_url, vault())
    with ThreadPoolExecutor(1) as thread, psycopg.connect(database_url) as holding:
        holding.execute("LOCK TABLE keys.conversations")  # its workers wait for it, and nobody else
        command = thread.submit(minutebook, tmp_path, "rebuild", "usage", "--json", database_url=database_url)
        wait_until(lambda: bool(query(database_url, WAITING_LOADER)))
        query(database_url, CUT)
        done = command.result()
    assert done.returncode == 1
    said = "The database did not do it: it went away (AdminShutdown 57P01); run this again when it is back."
    assert done.stderr == f"minutebook: {said}\n"
    assert minutebook(tmp_path, "rebuild", "usage", database_url=database_url).returncode == 0


def test_a_cancelled_rebuild_goes_on_where_it_was(database_url: str) -> None:
    head = store(database_url, talks(300))
    assert Rebuild(database_url, Counting(), is_cancelled=lambda: True).run() == -1
    ((generation,),) = query(database_url, "SELECT DISTINCT generation FROM rebuilds")
    assert sorted(tables_left(database_url)) == [f"counts__g{generation}", f"notes__g{generation}"]
    assert Rebuild(database_url, Counting()).run() == head
    assert query(database_url, "SELECT last_value FROM projection_generations") == [(generation,)]
    assert held(database_url, Counting()) == reference(database_url, Counting())
    assert tables_left(database_url) == []


def test_a_swap_that_a_long_query_holds_up_is_cancelled_at_once_and_resumed_later(database_url: str) -> None:
    head = store(database_url, talks(3))
    catch_up(database_url, Counting())
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM counts")  # and its transaction stays open
        run = Run(database_url)
        run.start()
        wait_until(lambda: run.phases.count("swapping") > 2)
        run.cancelled.set()
        run.join(5)
        assert run.result == -1
    assert Rebuild(database_url, Counting()).run() == head
    assert tables_left(database_url) == []


def test_swaps_that_are_held_up_become_rarer() -> None:
    tried = pauses()
    first, *_ = waits = [next(tried) for _ in range(100)]
    assert first <= 0.1
    assert max(waits[:3]) < min(waits[30:])
    assert max(waits) <= 2


async def test_a_server_stops_while_a_long_query_holds_up_its_rebuild(database_url: str) -> None:
    store(database_url, talks(3))
    catch_up(database_url, Counting())
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM counts")
        async with projecting(database_url, CountingTwice()):
            wait_until(lambda: bool(query(database_url, "SELECT 1 FROM rebuilds WHERE part = -1")))
            began = time.monotonic()
        assert time.monotonic() - began < 10
    assert checkpoint(database_url, "counting")["version"] == 1


def test_a_second_rebuild_of_the_same_read_model_is_refused(database_url: str) -> None:
    first = Rebuild(database_url, Counting())
    with first.locked(), pytest.raises(RebuildRunningError):
        Rebuild(database_url, Counting()).run()


def test_a_rebuild_waits_a_moment_for_a_server_that_tidies_up(database_url: str) -> None:
    head = store(database_url, talks(1))
    with connect(database_url, "test") as connection:
        assert checkpoints.try_lock(connection, "rebuild", "counting")
        run = Run(database_url, vault=vault())
        run.start()
        time.sleep(0.3)
        checkpoints.unlock(connection, "rebuild", "counting")
        run.join()
    assert run.result == head


MANY_TABLES = (
    "DO $$ BEGIN FOR n IN 1..200 LOOP EXECUTE format('CREATE TEMP TABLE t%s (x text)', n); END LOOP; END $$"
)


def test_the_next_rebuild_may_begin_the_moment_one_has_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infrastructure.projections.rebuild._LOCK_WAIT_S", 0.0)
    rebuild = Rebuild(database_url, Counting())
    for _ in range(3):
        with rebuild.locked() as connection:  # one that takes its time to close
            connection.execute(MANY_TABLES)
