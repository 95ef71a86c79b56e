"""A comparison names every row that is not what the log says, and changes nothing, whatever it finds."""

import asyncio
import threading

import pytest

from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.rebuild import Rebuild, RebuildError
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.verify import Difference, Verified, verify
from tests.asking import query
from tests.projecting import (
    Counting,
    checkpoint,
    held,
    is_at,
    projecting,
    store,
    tables_left,
    talks,
    wait_until,
)
from tests.reading import catch_up

pytestmark = pytest.mark.may_block("the test itself asks the database; nothing else runs on its loop")

EVERY_MODEL = [Counting(), *READ_MODELS]
PAUSE_S = 0.02  # between the saves of one who writes all the while
COUNTED = sum(event.type in Counting.types for event in talks(1))


def compared(url: str, found: list[Difference] | None = None) -> Verified | None:
    return verify(Rebuild(url, Counting()), Counting(), (found if found is not None else []).append)


def test_verify_names_every_row_that_differs_and_changes_nothing(database_url: str) -> None:
    store(database_url, talks(30))
    catch_up(database_url, Counting())
    query(database_url, "UPDATE counts SET events = 99 WHERE conversation = 'c7'")
    query(database_url, "DELETE FROM counts WHERE conversation = 'c8'")
    query(database_url, "INSERT INTO notes VALUES ('nobody', 5, 'conversation.archived')")
    before = held(database_url, Counting())
    found: list[Difference] = []
    verified = compared(database_url, found)
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


@pytest.mark.parametrize("table", ["counts", "notes"])
def test_verify_of_a_read_model_that_lacks_a_table_says_so_and_touches_nothing(
    database_url: str, table: str
) -> None:
    head = store(database_url, talks(3))
    catch_up(database_url, Counting())
    other = {"counts": "notes", "notes": "counts"}[table]
    query(database_url, f"DROP TABLE {table}")
    before = query(database_url, f"SELECT * FROM {other}")
    with pytest.raises(RebuildError, match="a table of it is missing; rebuild it first"):
        compared(database_url)
    assert query(database_url, f"SELECT * FROM {other}") == before != []
    assert query(database_url, "SELECT to_regclass(%s)", table) == [(None,)]
    assert checkpoint(database_url, "counting")["position"] == head


def test_verify_of_a_read_model_that_was_never_made_makes_nothing(database_url: str) -> None:
    with pytest.raises(RebuildError, match="rebuild it first"):
        compared(database_url)
    assert checkpoint(database_url, "counting") == {}
    assert query(database_url, "SELECT to_regclass('counts')") == [(None,)]


def test_verify_leaves_an_unfinished_rebuild_to_be_resumed(database_url: str) -> None:
    head = store(database_url, talks(3))
    catch_up(database_url, Counting())
    assert Rebuild(database_url, Counting(), is_cancelled=lambda: True).run() == -1
    left, tables = query(database_url, "SELECT * FROM rebuilds"), tables_left(database_url)
    verified = compared(database_url)
    assert verified == Verified(head, 0)
    assert query(database_url, "SELECT * FROM rebuilds") == left != []
    assert tables_left(database_url) == tables
    assert Rebuild(database_url, Counting()).run() == head
    ((generation,),) = query(database_url, "SELECT last_value FROM projection_generations")
    assert generation == left[0][3] + 1, "the comparison's own is the newest: the rebuild was resumed"
    assert tables_left(database_url) == []


def test_what_a_killed_comparison_has_left_is_dropped_by_the_next_rebuild_or_comparison(
    database_url: str,
) -> None:
    store(database_url, talks(3))
    catch_up(database_url, Counting())
    for next_one in (Rebuild(database_url, Counting()).run, lambda: compared(database_url)):
        killed = Rebuild(database_url, Counting()).for_comparison()
        with killed.locked() as connection:
            killed.begin(connection, 1)
        assert tables_left(database_url) != []
        next_one()
        assert tables_left(database_url) == []
        assert query(database_url, "SELECT * FROM rebuilds") == []
