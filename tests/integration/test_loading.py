"""Loading: snapshots that say what a replay says, pages on demand, no connection held."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import pytest

from application.errors import StoreUnavailableError
from domain.conversation import Conversation
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.node import CALL, Store, by, closing
from tests.integration.saves import appending
from tests.integration.turn_helpers import execute


async def test_a_snapshot_says_what_a_full_replay_says(store: Store) -> None:
    for number in range(12):
        await _busy_turn(store, number)
        async with store.unit("look") as work:
            short = (work.conversation.version, work.conversation.kept_state(), work.agent.kept_state())
            assert work.conversation.modified_on.tzinfo
        await execute(store.pool, "UPDATE snapshots SET state_version = state_version + 1000")
        async with store.unit("look") as work:
            assert (
                work.conversation.version,
                work.conversation.kept_state(),
                work.agent.kept_state(),
            ) == short
        await execute(store.pool, "UPDATE snapshots SET state_version = state_version - 1000")
    kept = dict(await execute(store.pool, "SELECT stream, version FROM snapshots"))
    assert kept.keys() == {"conversation-c1", "agent-c1"}
    assert kept["conversation-c1"] > 12


async def _states(store: Store) -> list[Any]:
    async with store.unit("look") as work:
        return [(one.version, one.kept_state()) for one in (work.conversation, work.agent)]


async def _busy_turn(store: Store, number: int) -> None:
    turn = await store.turn()
    async with store.unit(turn, snapshot_every=5) as work:
        if work.is_new:
            work.start(by(turn), "coder")
        work.conversation.receive_user_message(f"m{number}", "more", by(turn))
        work.agent.switch("ask" if number % 2 else "debug", "a", "user:ada", by(turn))
        work.conversation.request_call(f"k{number}", CALL, by(turn))
        if number % 3:
            work.conversation.decide_call(f"k{number}", "edit", {"seats": number}, None, by(turn))
        if number % 4 == 0:
            subtasks = [{"id": "s", "description": "d", "agent": "coder", "depends_on": []}]
            work.conversation.propose_plan(f"p{number}", "goal", subtasks, "architect", by(turn))
        await work.commit(closing(turn))


async def test_a_snapshot_is_taken_only_where_a_multiple_is_passed(store: Store) -> None:
    await store.say("one", snapshot_every=3)
    assert await execute(store.pool, "SELECT * FROM snapshots") == []
    await store.say("two", snapshot_every=3)
    assert await execute(store.pool, "SELECT stream, version FROM snapshots") == [("conversation-c1", 3)]
    await store.say("three", "four", snapshot_every=3)
    assert await execute(store.pool, "SELECT stream, version FROM snapshots") == [("conversation-c1", 3)]


async def contents(work: PostgresUnitOfWork) -> list[str]:
    return [
        event.content if isinstance(event, Conversation.UserMessageReceived) else type(event).__name__
        async for event in work.newest_first()
    ]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize("snapshot_every", [2, 100])
async def test_the_conversation_is_walked_back_newest_first_over_all_pages(
    store: Store, page: int, snapshot_every: int
) -> None:
    for content in "abcdef":
        await store.say(content, snapshot_every=snapshot_every)
    turn = await store.turn()
    async with store.unit(turn, view_page=page) as work:
        work.conversation.receive_user_message("g", "g", by(turn))
        work.agent.switch("ask", "a", "user:ada", by(turn))
        work.conversation.receive_user_message("h", "h", by(turn))
        assert await contents(work) == [*"hgfedcba", "Started"]


async def test_a_new_conversation_shows_what_was_just_recorded(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert await contents(work) == []
        work.start(by(turn), "coder")
        assert await contents(work) == ["Started"]


async def test_older_pages_are_read_only_when_they_are_asked_for(store: Store) -> None:
    for content in "abcdef":
        await store.say(content, snapshot_every=2)
    async with store.unit("look", view_page=3) as work:
        await store.pool.close()
        walk = work.newest_first()
        assert [type(await anext(walk)).__name__ for _ in range(3)] == ["UserMessageReceived"] * 3
        with pytest.raises(StoreUnavailableError):
            await _exhaust(walk)


async def _exhaust(walk: AsyncIterator[Any]) -> None:
    async for _ in walk:
        pass


async def test_no_connection_is_held_between_loading_and_committing(database_url: str) -> None:
    async with (
        open_pool(database_url, min_size=1, max_size=1) as pool,
        appending(database_url) as appender,
        AsyncExitStack() as stack,
    ):
        store = Store(pool, appender)
        open_units = []
        for number in range(50):
            turn = await store.turn(f"c{number}")
            work = await stack.enter_async_context(store.unit(turn, f"c{number}"))
            work.start(by(turn), "coder")
            open_units.append((work, turn))
        assert pool.get_stats()["pool_available"] == 1
        await asyncio.gather(*(work.commit(closing(turn)) for work, turn in open_units))
        assert await store.log.head() == 100


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
@pytest.mark.may_block("the 10,000 events are put there without a snapshot, and loaded once")
async def test_a_long_conversation_loads_within_three_times_a_short_one(store: Store) -> None:
    for conversation, length in (("short", 10), ("long", 10_000)):
        await _long_conversation(store, conversation, length)
    await _go_on(store, "long", 39)  # as far from its snapshot as it ever gets
    await execute(store.pool, "ANALYZE log")
    ratios = []
    for _ in range(20):  # in turns: what else the machine does, and how fast it is, meets both
        short_s = await _best_load_s(store, "short")
        ratios.append(await _best_load_s(store, "long") / short_s)
    assert median(ratios) < 3, ratios


async def _long_conversation(store: Store, conversation: str, length: int) -> None:
    """Store a conversation of so many events, then one more turn, which takes its snapshot."""
    await execute(
        store.pool,
        "INSERT INTO log SELECT (SELECT coalesce(max(position), 0) FROM log) + n, now(), n, %s, "
        "CASE n WHEN 1 THEN 'conversation.started' ELSE 'conversation.user_message_received' END, %s, 't0', "
        "'user:ada', CASE n WHEN 1 THEN '{}'::bytea "
        "ELSE convert_to('{\"message_id\":\"m\",\"content\":\"' || repeat('word ', 40) || '\"}', 'UTF8') END "
        "FROM generate_series(1, %s) n",
        f"conversation-{conversation}",
        conversation,
        length - 1,
    )
    await execute(
        store.pool,
        "INSERT INTO log SELECT max(position) + 1, now(), 1, %s, 'agent.assigned', %s, 't0', 'user:ada', "
        '\'{"agent":"coder"}\' FROM log',
        f"agent-{conversation}",
        conversation,
    )
    await _go_on(store, conversation, 1)


async def _go_on(store: Store, conversation: str, messages: int) -> None:
    turn = await store.turn(conversation)
    async with store.unit(turn, conversation) as work:
        for number in range(messages):
            work.conversation.receive_user_message(f"m{number}", "word " * 40, by(turn))
        await work.commit(closing(turn))


async def _best_load_s(store: Store, conversation: str) -> float:
    best = 1e9
    for _ in range(50):
        started = time.perf_counter()
        async with store.unit("look", conversation) as work:
            assert not work.is_new
        best = min(best, time.perf_counter() - started)
    return best
