"""A rebuild gives what following and a plain fold give; also while events come in."""

import asyncio
import threading
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infrastructure.projections import follow, loading
from infrastructure.projections.connecting import connect
from infrastructure.projections.follow import Projector
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.reading import read_page
from infrastructure.projections.rebuild import Rebuild, RebuildError
from infrastructure.projections.registry import READ_MODELS
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
    talks,
    wait_until,
    woven,
)
from tests.unit.commands import histories

pytestmark = pytest.mark.may_block("the test itself asks the database; nothing else runs on its loop")

EVERY_MODEL = [Counting(), *READ_MODELS]
PAUSE_S = 0.02  # between the saves of one who writes all the while


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
        parts = self._parts(connection)
        for part in parts:
            loader, position = self._loader(part, generation, len(parts))(), part.position
            with connect(self._url, "test") as reading, connect(self._url, "test") as writing:
                while position < part.target:
                    position = loading._one_range(loader, reading, writing, position, part.target)
        return True


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
@pytest.mark.parametrize("kept_rows", [0, 5, 150_000], ids=["nothing kept", "little kept", "all kept"])
def test_following_rebuilding_and_a_plain_fold_give_the_same_rows(
    database_url: str, monkeypatch: pytest.MonkeyPatch, kept_rows: int
) -> None:
    # Pages so small that a conversation is in several: its rows are then loaded from the tables.
    monkeypatch.setattr(follow, "read_page", partial(read_page, size=7))
    monkeypatch.setattr(follow, "_GATHER_S", 0.0)
    monkeypatch.setattr(loading, "_CHUNK", 3)
    monkeypatch.setattr(loading, "_KEPT_ROWS", kept_rows)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(histories(), min_size=1, max_size=4))
    def check(logs: Any) -> None:
        forget(database_url)
        head = store(database_url, woven([happened(f"c{n}", log) for n, log in enumerate(logs)]))
        follow_to_the_end(database_url, EVERY_MODEL, head)
        for model in EVERY_MODEL:
            expected = reference(database_url, model)
            assert held(database_url, model) == expected
            query(database_url, f"DELETE FROM {model.tables[0].name}")
            assert InThisProcess(database_url, model, range_=7).run() == head
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


def test_what_a_rebuild_of_another_version_left_is_not_used(database_url: str) -> None:
    store(database_url, talks(20))
    Rebuild(database_url, Counting(), is_cancelled=lambda: True).run()
    Rebuild(database_url, CountingTwice()).run()
    assert held(database_url, CountingTwice()) == reference(database_url, CountingTwice())
    assert checkpoint(database_url, "counting")["version"] == 2
    assert tables_left(database_url) == []


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
