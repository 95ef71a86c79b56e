"""A read model in trouble stops alone, says where and why, and goes on when the trouble is over."""

from typing import Any

import psycopg
import pytest

from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.sealing import sealed
from infrastructure.projections.rebuild import Rebuild, RebuildError
from tests.asking import query
from tests.opened import vault
from tests.projecting import (
    Counting,
    Other,
    Stumbling,
    checkpoint,
    held,
    is_at,
    projecting,
    reference,
    store,
    talks,
    wait_until,
)
from tests.reading import catch_up

pytestmark = pytest.mark.may_block("the test itself asks the database; the projector has a thread of its own")


def first_of(events: list[NewEvent], type_: str, conversation: str = "") -> int:
    """Return the position of the first event of this type."""
    fits = (e.type.endswith(type_) and e.conversation.startswith(conversation) for e in events)
    return 1 + list(fits).index(True)


def has_failed(url: str) -> bool:
    return checkpoint(url, "counting").get("state") == "failed"


async def test_a_fold_that_raises_stops_its_own_read_model_and_names_the_position(database_url: str) -> None:
    events = talks(20)
    head, bad = store(database_url, events), first_of(events, "archived")
    async with projecting(database_url, Stumbling(), Other()):
        wait_until(is_at(database_url, Other(), head))
        wait_until(lambda: has_failed(database_url))
    stopped = checkpoint(database_url, "counting")
    assert (stopped["position"], stopped["failed_position"]) == (bad - 1, bad)
    assert stopped["error"] == "KeyError: 'what is this'"
    assert held(database_url, Stumbling()) == reference(database_url, Counting(), bad - 1)
    async with projecting(database_url, Counting()):
        wait_until(is_at(database_url, Counting(), head))
    mended = checkpoint(database_url, "counting")
    assert (mended["state"], mended["failed_position"], mended["error"]) == ("following", None, None)
    assert held(database_url, Counting()) == reference(database_url, Counting())


class Refused(Counting):
    """Puts a row that the database refuses."""

    def fold(self, rows: Any, event: Any) -> None:
        super().fold(rows, event)
        if event.type.endswith("archived"):
            rows.put(self.tables[1], {"conversation": "x", "position": 2**70, "type": event.type})


async def test_a_row_that_the_database_refuses_stops_before_its_event(database_url: str) -> None:
    events = talks(20)
    store(database_url, events)
    bad = first_of(events, "archived")
    async with projecting(database_url, Refused()):
        wait_until(lambda: has_failed(database_url))
    stopped = checkpoint(database_url, "counting")
    assert (stopped["position"], stopped["failed_position"]) == (bad - 1, bad)


TROUBLE = """
    CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '{}'; END $$;
    CREATE TRIGGER trouble BEFORE INSERT ON counts EXECUTE FUNCTION trouble()"""


@pytest.mark.parametrize("sqlstate", ["53100", "55P03", "57014"], ids=["a full disk", "a lock", "a cancel"])
async def test_what_the_database_cannot_do_for_one_read_model_now_holds_up_no_other(
    database_url: str, sqlstate: str
) -> None:
    catch_up(database_url, Counting())
    query(database_url, TROUBLE.format(sqlstate))
    head = store(database_url, talks(3))
    async with projecting(database_url, Counting(), Other()):
        wait_until(is_at(database_url, Other(), head))
        wait_until(lambda: has_failed(database_url))
        stopped = checkpoint(database_url, "counting")
        assert (stopped["position"], stopped["failed_position"]) == (0, None)
        assert "no room" in stopped["error"]
        query(database_url, "DROP TRIGGER trouble ON counts")
        wait_until(is_at(database_url, Counting(), head))
    assert checkpoint(database_url, "counting")["state"] == "following"
    assert held(database_url, Counting()) == reference(database_url, Counting())


async def test_a_table_that_somebody_has_locked_holds_up_no_other_read_model(database_url: str) -> None:
    catch_up(database_url, Counting())
    head = store(database_url, talks(3))
    with psycopg.connect(database_url) as somebody:
        somebody.execute("LOCK TABLE counts")
        async with projecting(database_url, Counting(), Other()):
            wait_until(is_at(database_url, Other(), head))
            wait_until(lambda: has_failed(database_url))
            assert "lock timeout" in checkpoint(database_url, "counting")["error"]
            somebody.rollback()
            wait_until(is_at(database_url, Counting(), head))


KEPT = "INSERT INTO keys.conversations (conversation, wrapped) VALUES (%s, %s)"


def sealed_talks(url: str, count: int) -> list[NewEvent]:
    """Return events that are sealed, each with the key of its conversation, which is kept as always."""
    keys = {}
    for number in range(count):
        keys[f"c{number}"], wrapped = vault().new_key(f"c{number}")
        query(
            url,
            "INSERT INTO keys.conversations (conversation, wrapped) VALUES (%s, %s)",
            f"c{number}",
            wrapped,
        )
    return [sealed(event, keys[event.conversation]) for event in talks(count)]


@pytest.mark.parametrize("broken", [b"\x01\x02", b"\x00"], ids=["not what was sealed", "no key"])
async def test_a_key_that_does_not_open_stops_those_who_read_what_it_sealed_and_nobody_else(
    database_url: str, broken: bytes
) -> None:
    events = sealed_talks(database_url, 3)
    head = store(database_url, events)
    query(
        database_url,
        "UPDATE keys.conversations SET wrapped = decode('0102', 'hex') WHERE conversation = 'c1'",
    )
    bad = first_of(events, "user_message_received", "c1")
    async with projecting(database_url, Counting(), Other()):  # the other one does not look at what is said
        wait_until(is_at(database_url, Other(), head))
        wait_until(lambda: has_failed(database_url))
    stopped = checkpoint(database_url, "counting")
    assert (stopped["position"], stopped["failed_position"]) == (bad - 1, bad)
    assert "the key of conversation c1 is not what was kept" in stopped["error"]
    with pytest.raises(RebuildError, match=f"position {bad} cannot be folded"):
        Rebuild(database_url, Counting(), vault=vault()).run()
