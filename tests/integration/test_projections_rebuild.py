"""A rebuild gives what following and a plain fold give; also killed, cancelled, twice and while serving."""

import asyncio
import threading
import time
from multiprocessing import get_context
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infrastructure.projections import loading
from infrastructure.projections.checkpoints import RebuildMark
from infrastructure.projections.connecting import connect
from infrastructure.projections.follow import Projector
from infrastructure.projections.generations import suffix
from infrastructure.projections.loading import Loader
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.rebuild import Rebuild, RebuildError, RebuildRunningError
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.verify import Difference, verify
from tests.asking import query
from tests.projecting import (
    Counting,
    CountingTwice,
    Stumbling,
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
from tests.unit.commands import Command, histories

pytestmark = pytest.mark.may_block("the test itself asks the database; nothing else runs on its loop")

EVERY_MODEL = [Counting(), *READ_MODELS]
TALK: list[Command] = [("receive_user_message", ("m1", "one")), ("archive", ()), ("reopen", ())]
PAUSE_S = 0.02  # between the saves of one who writes all the while
COUNTED = 5  # events of a talk that the model folds: four of the conversation, one switch


def talks(count: int, first: int = 0) -> Any:
    return woven([happened(f"c{number}", TALK) for number in range(first, first + count)])


def forget(url: str) -> None:
    """Empty the log as no service can, so that one database serves many examples."""
    query(url, "ALTER TABLE log DISABLE TRIGGER log_append_only")
    query(url, "TRUNCATE log")
    query(url, "DELETE FROM projections")
    query(url, "ALTER TABLE log ENABLE ALWAYS TRIGGER log_append_only")


def follow_to_the_end(url: str, models: list[ReadModel], head: int) -> None:
    projector = Projector(url, models)
    asyncio.run(projector.start())
    for model in models:
        wait_until(is_at(url, model, head), timeout_s=80)
    asyncio.run(projector.stop())


class InThisProcess(Rebuild):
    """Loads without worker processes, in small ranges: what is proven is the same, many times over."""

    def _loaded(self, connection: psycopg.Connection, generation: int) -> bool:
        parts = connection.execute(
            "SELECT part, position, target FROM rebuilds WHERE name = %s AND part >= 0", [self._model.name]
        ).fetchall()
        for part, position, target in parts:
            mark = RebuildMark(self._model.name, part, generation)
            loader = Loader(self._model, mark, suffix(generation), len(parts), self._vault)
            with connect(self._url, "test") as reading, connect(self._url, "test") as writing:
                for last in loading._ends(position, target):
                    loader.load(reading, writing, position, last)
                    position = last  # noqa: PLW2901
        return True


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
@pytest.mark.parametrize("kept_rows", [0, 5, 150_000], ids=["nothing kept", "little kept", "all kept"])
def test_following_rebuilding_and_a_plain_fold_give_the_same_rows(
    database_url: str, monkeypatch: pytest.MonkeyPatch, kept_rows: int
) -> None:
    monkeypatch.setattr(loading, "RANGE", 7)
    monkeypatch.setattr(loading, "_CHUNK", 3)
    monkeypatch.setattr(loading, "_KEPT_ROWS", kept_rows)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(histories(), min_size=1, max_size=4))
    def check(logs: Any) -> None:
        forget(database_url)
        head = store(database_url, woven([happened(f"c{n}", log) for n, log in enumerate(logs)]))
        follow_to_the_end(database_url, EVERY_MODEL, head)
        for model in EVERY_MODEL:
            expected = reference(database_url, model)
            assert held(database_url, model) == expected
            query(database_url, f"DELETE FROM {model.tables[0].name}")
            assert InThisProcess(database_url, model).run() == head
            assert held(database_url, model) == expected

    check()


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.name)
async def test_a_rebuild_that_starts_in_the_middle_of_live_writes_gives_the_same_rows(
    database_url: str, model: ReadModel
) -> None:
    over = threading.Event()
    head = store(database_url, talks(50))

    def write() -> None:
        nonlocal head
        first = 50
        while not over.wait(PAUSE_S):
            head = store(database_url, talks(5, first))
            first += 5

    writer = threading.Thread(target=write)
    async with projecting(database_url, model):
        writer.start()
        wait_until(lambda: checkpoint(database_url, model.name).get("position", 0) > 0)
        before = checkpoint(database_url, model.name)["position"]
        try:
            at_swap = await asyncio.to_thread(Rebuild(database_url, model).run)
        finally:
            over.set()
            writer.join()
        wait_until(is_at(database_url, model, head))
    assert before <= at_swap <= head
    assert held(database_url, model) == reference(database_url, model)
    assert tables_left(database_url) == []


def start_and_wait(url: str) -> None:
    Rebuild(url, Counting()).run()


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
def test_a_killed_rebuild_is_resumed_and_leaves_nothing(database_url: str, monkeypatch: Any) -> None:
    store(database_url, talks(5_000))
    follow_to_the_end(database_url, [Counting()], query(database_url, "SELECT position FROM log_head")[0][0])
    query(database_url, "UPDATE counts SET events = 0")
    context = get_context("spawn")
    for _ in range(3):
        process = context.Process(target=start_and_wait, args=(database_url,))
        process.start()
        wait_until(lambda: bool(query(database_url, "SELECT 1 FROM rebuilds")))
        time.sleep(0.15)
        process.kill()
        process.join()
    wait_until(lambda: not query(database_url, OTHERS_AT_WORK))
    Rebuild(database_url, Counting()).run()
    assert held(database_url, Counting()) == reference(database_url, Counting())
    assert tables_left(database_url) == []
    assert query(database_url, "SELECT * FROM rebuilds") == []


OTHERS_AT_WORK = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'minutebook rebuild%%'"
)


def test_a_cancelled_rebuild_goes_on_where_it_was(database_url: str) -> None:
    head = store(database_url, talks(2_000))
    assert Rebuild(database_url, Counting(), is_cancelled=lambda: True).run() == -1
    ((generation,),) = query(database_url, "SELECT DISTINCT generation FROM rebuilds")
    assert sorted(tables_left(database_url)) == [f"counts__g{generation}", f"notes__g{generation}"]
    assert Rebuild(database_url, Counting()).run() == head
    assert query(database_url, "SELECT last_value FROM projection_generations") == [(generation,)]
    assert held(database_url, Counting()) == reference(database_url, Counting())
    assert tables_left(database_url) == []


def test_what_a_rebuild_of_another_version_left_is_not_used(database_url: str) -> None:
    store(database_url, talks(20))
    Rebuild(database_url, Counting(), is_cancelled=lambda: True).run()
    Rebuild(database_url, CountingTwice()).run()
    assert held(database_url, CountingTwice()) == reference(database_url, CountingTwice())
    assert checkpoint(database_url, "counting")["version"] == 2
    assert tables_left(database_url) == []


def test_a_second_rebuild_of_the_same_read_model_is_refused(database_url: str) -> None:
    first = Rebuild(database_url, Counting())
    with first.locked(), pytest.raises(RebuildRunningError):
        Rebuild(database_url, Counting()).run()


MANY_TABLES = (
    "DO $$ BEGIN FOR n IN 1..200 LOOP EXECUTE format('CREATE TEMP TABLE t%s (x text)', n); END LOOP; END $$"
)


def test_the_next_rebuild_may_begin_the_moment_one_has_ended(database_url: str) -> None:
    rebuild = Rebuild(database_url, Counting())
    for _ in range(3):
        with rebuild.locked() as connection:  # one that takes its time to close
            connection.execute(MANY_TABLES)


@pytest.mark.parametrize("behind", [0, 300], ids=["the log ends there", "much is left of the log"])
def test_a_rebuild_that_cannot_fold_an_event_names_it_and_changes_nothing(
    database_url: str, behind: int
) -> None:
    store(database_url, talks(3))
    head = store(database_url, talks(behind, first=3))
    follow_to_the_end(database_url, [Counting()], head)
    before = held(database_url, Counting())
    with pytest.raises(RebuildError, match=r"position \d+ cannot be folded: KeyError"):
        Rebuild(database_url, Stumbling()).run()
    assert held(database_url, Counting()) == before


def test_verify_names_every_row_that_differs_and_changes_nothing(database_url: str) -> None:
    follow_to_the_end(database_url, [Counting()], store(database_url, talks(30)))
    query(database_url, "UPDATE counts SET events = 99 WHERE conversation = 'c7'")
    query(database_url, "DELETE FROM counts WHERE conversation = 'c8'")
    query(database_url, "INSERT INTO notes VALUES ('nobody', 5, 'conversation.archived')")
    before = held(database_url, Counting())
    found: list[Difference] = []
    verified = verify(Rebuild(database_url, Counting()), Counting(), found.append)
    assert verified is not None
    assert verified.differences == 3
    seen = {(it.table, *it.key.values()): it for it in found}
    changed = seen["counts", "c7"]
    assert changed.answered is not None
    assert changed.folded is not None
    assert (changed.answered["events"], changed.folded["events"]) == (99, COUNTED)
    assert seen["counts", "c8"].answered is None
    assert seen["notes", "nobody", 5].folded is None
    assert held(database_url, Counting()) == before
    assert tables_left(database_url) == []
    assert query(database_url, "SELECT * FROM rebuilds") == []


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.name)
async def test_verify_finds_no_difference_while_events_come_in(database_url: str, model: ReadModel) -> None:
    head = store(database_url, talks(50))
    async with projecting(database_url, model):
        wait_until(is_at(database_url, model, head))
        over = threading.Event()

        def write() -> None:
            first = 50
            while not over.wait(PAUSE_S):
                store(database_url, talks(2, first))
                first += 2

        writer = threading.Thread(target=write)
        writer.start()
        found: list[Difference] = []
        try:
            verified = await asyncio.to_thread(verify, Rebuild(database_url, model), model, found.append)
        finally:
            over.set()
            writer.join()
    assert found == []
    assert verified is not None
    assert verified.position >= head
