"""Whatever goes wrong before or in the commit, nothing is stored; and of two that race, one wins."""

import asyncio
import multiprocessing
import time
from pathlib import Path

import pytest

from application.errors import ConflictError, StoreUnavailableError, TurnLostError
from application.ports import Closing, Committed, TurnRow
from domain.aggregate import By
from domain.errors import MinutebookError
from infrastructure.postgres.appender import Appender
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.pool import create_pool, open_pool
from infrastructure.postgres.schema import migrate
from infrastructure.postgres.turns import PostgresTurns
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from tests.integration.node import MAPPER, Store, by, closing
from tests.integration.saves import CuttingProxy, appending
from tests.integration.turn_helpers import accepted, asked, execute, expire
from tests.opened import opened_log, vault

# --- nothing is stored ---------------------------------------------------------------------------


async def test_leaving_without_commit_changes_nothing(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    async with store.unit(turn, snapshot_every=1) as work:
        work.conversation.receive_user_message("two", "two", by(turn))
        work.agent.switch("ask", "a", "user:ada", by(turn))
    assert await store.everything() == before


async def test_an_exception_inside_changes_nothing(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    with pytest.raises(ZeroDivisionError):
        await _fall_over(store, turn)
    assert await store.everything() == before


async def _fall_over(store: Store, turn: TurnRow) -> None:
    async with store.unit(turn, snapshot_every=1) as work:
        work.conversation.receive_user_message("two", "two", by(turn))
        raise ZeroDivisionError


async def commit_of_a_turn(store: Store, turn: TurnRow) -> Committed:
    async with store.unit(turn, snapshot_every=1) as work:
        work.conversation.receive_user_message("two", "two", by(turn))
        work.agent.switch("ask", "a", "user:ada", by(turn))
        return await work.commit(closing(turn))


async def test_a_lease_that_went_to_another_node_fences_the_late_commit(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn, snapshot_every=1) as late:
        late.conversation.receive_user_message("two", "two", by(turn))
        await expire(store.pool, turn.turn_id)
        await PostgresTurns(store.pool, "node-2", 30.0).retry(turn.turn_id, "ada")
        before = await store.everything()
        with pytest.raises(TurnLostError):
            await late.commit(closing(turn))
    assert await store.everything() == before


async def test_an_abandoned_turn_cannot_commit(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    await expire(store.pool, turn.turn_id)
    await store.turns.sweep()
    before = await store.everything()
    with pytest.raises(TurnLostError):
        await commit_of_a_turn(store, turn)
    assert await store.everything() == before


async def test_an_earlier_attempt_on_the_same_node_cannot_commit(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    await expire(store.pool, turn.turn_id)
    await store.turns.retry(turn.turn_id, "ada")
    before = await store.everything()
    with pytest.raises(TurnLostError):
        await commit_of_a_turn(store, turn)
    assert await store.everything() == before


async def test_what_somebody_else_wrote_meanwhile_is_a_conflict(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        work.agent.switch("ask", "a", "user:ada", by(turn))
        await execute(
            store.pool,
            "INSERT INTO log SELECT 4, now(), 2, stream, 'agent.model_called', conversation, 'x', actor, data"
            " FROM log WHERE stream = 'agent-c1'",
        )
        before = await store.everything()
        with pytest.raises(ConflictError):
            await work.commit(closing(turn))
    assert await store.everything() == before


async def test_a_connection_cut_for_good_at_the_commit_changes_nothing(
    store: Store, database_url: str
) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    async with CuttingProxy(database_url) as proxy, appending(proxy.url, settle_s=0.5) as appender:
        cut = Store(store.pool, appender)
        proxy.verdict = lambda direction, _: "drop" if direction == "in" else "pass"
        with pytest.raises(StoreUnavailableError):
            await commit_of_a_turn(cut, turn)
        assert await store.everything() == before
        proxy.let_pass()
        await commit_of_a_turn(cut, turn)


async def test_an_acknowledgement_lost_after_the_commit_is_asked_for_and_nothing_stored_twice(
    store: Store, database_url: str
) -> None:
    await store.say("one")
    turn = await store.turn()
    async with CuttingProxy(database_url) as proxy, appending(proxy.url) as appender:
        cut = Store(store.pool, appender)
        async with cut.unit(turn) as work:
            work.conversation.receive_user_message("two", "two", by(turn))
            await _connected(appender)
            proxy.once("out", "cut")
            committed = await work.commit(closing(turn))
        assert proxy.cuts == 1
    assert [event.position for event in committed.events] == [4]
    assert list(committed.events) == list(await store.log.read(4, 99))


async def _connected(appender: Appender) -> None:
    """Let the appender open its connection: the next answer is then the one of an append."""
    keys = KeyStore(None, vault())  # type: ignore[arg-type]  # nothing is read
    turn_less = PostgresUnitOfWork("c9", "t9", "node-1", appender, None, MAPPER, keys)  # type: ignore[arg-type]
    turn_less._is_inside = True
    with pytest.raises(TurnLostError):
        await turn_less.commit(Closing("t9", 1, 0))


async def test_a_statement_that_takes_too_long_changes_nothing(store: Store, database_url: str) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    async with (
        appending(database_url, statement_timeout_s=0.2, settle_s=0.5) as appender,
        store.pool.connection() as holder,
    ):
        await holder.execute("SELECT pg_advisory_lock(append_lock())")
        with pytest.raises(StoreUnavailableError):
            await commit_of_a_turn(Store(store.pool, appender), turn)
        await holder.execute("SELECT pg_advisory_unlock(append_lock())")
        assert await store.everything() == before


@pytest.mark.may_block("it stops and starts a server")
async def test_a_server_that_is_stopped_at_the_commit_changes_nothing(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder)
    url = await asyncio.to_thread(server.start)
    await asyncio.to_thread(migrate, url)
    async with create_pool(url, wait_s=1.0) as pool, appending(url, settle_s=0.5) as appender:
        store = Store(pool, appender)
        await store.say("one")
        turn = await store.turn()
        before = await store.everything()
        async with store.unit(turn) as work:
            work.conversation.receive_user_message("two", "two", by(turn))
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailableError):
                await work.commit(closing(turn))
        with pytest.raises(StoreUnavailableError):
            async with store.unit(turn):
                pass
        await asyncio.to_thread(server.start)
        assert await store.everything() == before
        await commit_of_a_turn(store, turn)
    await asyncio.to_thread(server.stop)


# --- two processes -------------------------------------------------------------------------------


def race(url: str, turns: list[str], start_at: float) -> list[str]:
    """In a process of its own: run these turns, each in its conversation, all at once."""
    return asyncio.run(_race(url, turns, start_at))


async def _race(url: str, turns: list[str], start_at: float) -> list[str]:
    async with open_pool(url, min_size=4, max_size=4) as pool, appending(url) as appender:
        store = Store(pool, appender)
        await asyncio.sleep(max(0.0, start_at - time.time()))
        return await asyncio.gather(*(_run(store, turn) for turn in turns))


async def _run(store: Store, turn: str) -> str:
    try:
        async with store.unit(turn, conversation_id=turn) as work:
            if work.is_new:
                work.start(By("user:ada", turn), "coder")
            work.conversation.receive_user_message("Hello", "Hello", By("user:ada", turn))
            await work.commit(Closing(turn, 1, 0))
    except MinutebookError as error:
        return type(error).__name__
    return "committed"


@pytest.mark.may_block("it waits for other processes")
async def test_of_two_processes_that_race_for_a_conversation_exactly_one_wins(
    store: Store, database_url: str
) -> None:
    """Both believe they run the same attempt of the same turn: the worst case there is."""
    turns = [f"t{number}" for number in range(30)]
    for turn in turns:
        await accepted(store.turns, asked(turn_id=turn, conversation_id=turn))
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        answers = processes.starmap(race, [(database_url, turns, time.time() + 1.5)] * 2)
    for one, other in zip(*answers, strict=True):
        assert sorted([one, other])[1] == "committed"
        assert {one, other} - {"committed"} <= {"TurnLostError", "ConflictError"}
    assert await store.log.head() == 90
    states = await execute(store.pool, "SELECT state, count(*) FROM turns GROUP BY state")
    assert states == [("committed", 30)]
    opened = opened_log(database_url)  # each conversation and its agent with the one key that was stored
    assert {row.conversation for row in opened} == set(turns)
    assert all(row.data.startswith(b"{") for row in opened)


async def test_of_two_nodes_that_start_one_conversation_only_the_key_of_the_winner_is_kept(
    store: Store, database_url: str
) -> None:
    """Each has made a key of its own; what is stored opens with the stored one, on both nodes."""
    mine = await store.turn("c1")
    theirs = await store.turn("c2")  # the rule of one turn a conversation is not what decides here
    async with open_pool(database_url, min_size=1, max_size=2) as pool, appending(database_url) as appender:
        other = Store(pool, appender)
        async with store.unit(mine) as winning, other.unit(theirs) as losing:
            for work, turn in ((winning, mine), (losing, theirs)):
                work.start(by(turn), "coder")
                work.conversation.receive_user_message("m1", turn.turn_id, by(turn))
            won = await winning.commit(closing(mine))
            with pytest.raises(ConflictError):
                await losing.commit(closing(theirs))
        assert await execute(store.pool, "SELECT conversation FROM keys.conversations") == [("c1",)]
        for node in (store, other):
            assert list(await node.log.read(1, 99)) == list(won.events)
        async with other.unit(theirs) as work:
            assert (work.is_new, work.agent.name, work.conversation.version) == (False, "coder", 2)
            work.conversation.receive_user_message("m2", "again", by(theirs))
            work.agent.switch("ask", "a", "user:ada", by(theirs))
            await work.commit(closing(theirs))
    assert [row.conversation for row in await asyncio.to_thread(opened_log, database_url)] == ["c1"] * 5
