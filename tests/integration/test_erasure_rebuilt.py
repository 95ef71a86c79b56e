"""Whatever was said, and whenever one of them is erased: following, rebuilding and a plain fold agree."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from api.bootstrap.erasing import purging
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.erasing import PostgresEraser
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.sealing import sealed
from infrastructure.projections import loading
from infrastructure.projections.registry import READ_MODELS
from tests.asking import query
from tests.integration.test_projections_rebuild import InThisProcess, forget
from tests.opened import vault
from tests.projecting import happened, held, is_at, projecting, reference, store, wait_until, woven
from tests.unit.commands import Command, histories

pytestmark = pytest.mark.may_block("the test itself asks the database; nothing else runs on its loop")


def emptied(url: str) -> None:
    """Make one database serve many examples."""
    forget(url)
    for table in ("turns", "snapshots", "chunks", "keys.conversations"):
        query(url, f"DELETE FROM {table}")


def store_sealed(url: str, events: Sequence[NewEvent]) -> int:
    """Append the events sealed, each conversation's with a new key; returns the newest position."""
    keys = {}
    for name in sorted({event.conversation for event in events}):
        keys[name], wrapped = vault().new_key(name)
        insert = "INSERT INTO keys.conversations (conversation, wrapped) VALUES (%s, %s)"
        query(url, insert, name, wrapped)
    return store(url, [sealed(event, keys[event.conversation]) for event in events])


async def erase(url: str, conversation: str) -> int:
    async with open_pool(url, min_size=1, max_size=1) as pool:
        eraser = PostgresEraser(pool, "node-1", lambda _: None, purging)
        return (await eraser.erase(conversation, None, "user:local", None)).position


async def live(
    url: str, before: Sequence[NewEvent], after: Sequence[NewEvent], gone: str, caught_up: bool
) -> int:
    """Follow a log in the middle of which a conversation is erased; returns its newest position."""
    async with projecting(url, *READ_MODELS):
        head = store_sealed(url, before)
        if caught_up:
            for model in READ_MODELS:
                await asyncio.to_thread(wait_until, is_at(url, model, head), 60)
        await erase(url, gone)
        head = store_sealed(url, after)
        for model in READ_MODELS:
            await asyncio.to_thread(wait_until, is_at(url, model, head), 60)
    return head


def test_an_erasure_in_the_middle_leaves_what_a_rebuild_and_a_plain_fold_give(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "RANGE", 7)
    monkeypatch.setattr(loading, "_CHUNK", 3)

    @settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(
        st.lists(histories(), min_size=1, max_size=3),
        st.lists(histories(), max_size=2),
        st.integers(0, 2),
        st.booleans(),
    )
    def check(before: list[list[Command]], after: list[list[Command]], which: int, caught_up: bool) -> None:
        emptied(database_url)
        gone = f"c{which % len(before)}"
        first = woven([happened(f"c{n}", log) for n, log in enumerate(before)])
        then = woven([happened(f"d{n}", log) for n, log in enumerate(after)])
        head = asyncio.run(live(database_url, first, then, gone, caught_up))
        followed = {model.name: held(database_url, model) for model in READ_MODELS}
        for model in READ_MODELS:
            assert followed[model.name] == reference(database_url, model)
            query(database_url, f"DELETE FROM {model.tables[0].name}")
            assert InThisProcess(database_url, model, vault=vault()).run() == head
            assert held(database_url, model) == followed[model.name]
        kept = "SELECT kind FROM read_entries WHERE conversation = %s"
        assert query(database_url, kept, gone) == [("erasure",)]

    check()
