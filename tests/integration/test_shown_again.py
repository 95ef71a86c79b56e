"""Events that a process keeps in memory: its model sees what anybody wrote, as if nothing were kept."""

import pytest

from domain.errors import ConversationErasedError
from infrastructure.postgres.recent import RecentEvents
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.node import MAPPER, Store
from tests.integration.test_loading import contents


def unit(store: Store, recent: RecentEvents) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(
        "c1", "look", "n", store.appender, store.pool, MAPPER, store.keys, view_page=3, recent=recent
    )


@pytest.mark.parametrize("most_bytes", [0, 3000, 1_000_000])
@pytest.mark.parametrize("snapshot_every", [2, 5, 100])
async def test_what_others_wrote_meanwhile_is_seen_in_its_place(
    store: Store, most_bytes: int, snapshot_every: int
) -> None:
    recent, said = RecentEvents(most_bytes), ""
    for batch in ("abc", "d", "efghijkl", "m", "nopq"):
        for content in batch:
            await store.say(content, snapshot_every=snapshot_every)
        said += batch
        for _ in range(2):
            async with unit(store, recent) as work:
                assert await contents(work) == [*reversed(said), "Started"]


async def test_what_was_seen_before_is_not_read_again(store: Store) -> None:
    for content in "abcdefgh":
        await store.say(content, snapshot_every=2)
    recent = RecentEvents()
    async with unit(store, recent) as work:
        await contents(work)
    async with unit(store, recent) as work:
        await store.pool.close()
        assert await contents(work) == [*"hgfedcba", "Started"]


async def test_a_turn_that_outlived_an_erasure_is_shown_nothing_and_leaves_nothing_in_memory(
    store: Store,
) -> None:
    await store.say("a secret")
    recent = RecentEvents()
    async with unit(store, recent) as work:
        store.keys.vault.forget("c1")
        recent.forget("conversation-c1")  # as a process does when it hears of the receipt
        with pytest.raises(ConversationErasedError):
            _ = [event async for event in work.newest_first()]
    assert not recent.knows("conversation-c1")
