"""Leases, cancels and races of turns on a real PostgreSQL, whose clock alone counts."""

import asyncio
import multiprocessing
from collections import Counter
from multiprocessing.pool import Pool as Processes

import pytest

from application.errors import StoreUnavailableError
from application.ports import Accepted, Existing, Failure, TurnRequest, Turns
from domain.errors import ConversationNotFoundError
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.integration.turn_helpers import (
    HELLO,
    LEASE_S,
    accepted,
    asked,
    commit,
    execute,
    expire,
)

# --- leases --------------------------------------------------------------------------------------


async def test_an_expired_lease_frees_the_conversation(turns: Turns, elsewhere: Turns, pool: Pool) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    await accepted(elsewhere, asked())
    row = await turns.find("t1", "ada")
    assert row
    assert (row.state, row.code, row.payload) == ("abandoned", "turn_abandoned", HELLO.payload)
    assert not await turns.fail("t1", 1, Failure("conflict", "So it goes.", 0))


async def test_a_repeat_of_a_turn_whose_lease_ran_out_says_that_it_was_abandoned(
    turns: Turns, pool: Pool
) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    answer = await turns.accept(HELLO)
    assert isinstance(answer, Existing)
    assert answer.row.state == "abandoned"


async def test_the_sweep_abandons_what_has_expired_and_nothing_else(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    other = await accepted(turns, asked(conversation_id="c2"))
    await expire(pool, "t1")
    assert await turns.sweep() == ["t1"]
    assert await turns.sweep() == []
    assert await turns.find(other.turn_id, "ada") == other


async def test_a_turn_is_freed_when_its_lease_has_run_out_and_not_before(
    turns: Turns, elsewhere: Turns, pool: Pool
) -> None:
    row = await accepted(turns)
    other = await accepted(turns, asked(conversation_id="c2"))
    await elsewhere.free("t1")
    assert await turns.find("t1", "ada") == row
    await expire(pool, "t1")
    await elsewhere.free("t1")
    freed = await turns.find("t1", "ada")
    assert freed
    assert (freed.state, freed.code) == ("abandoned", "turn_abandoned")
    assert await turns.find(other.turn_id, "ada") == other


async def test_a_renewed_lease_lasts(pool: Pool) -> None:
    turns = PostgresTurns(pool, "node-1", LEASE_S)
    await accepted(turns)
    await expire(pool, "t1")
    assert await turns.renew([("t1", 1)]) == await turns.renew([("t1", 1)])
    [(left,)] = await execute(
        pool, "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM turns WHERE id = 't1'"
    )
    assert LEASE_S - 5 < left <= LEASE_S
    assert await turns.sweep() == []


async def test_renewing_tells_what_was_lost(turns: Turns, elsewhere: Turns, pool: Pool) -> None:
    await accepted(turns)
    taken = await accepted(turns, asked(conversation_id="c2"))
    await expire(pool, "t1")
    await expire(pool, taken.turn_id)
    await elsewhere.retry(taken.turn_id, "ada")
    await turns.sweep()
    renewal = await turns.renew([("t1", 1), (taken.turn_id, 1), ("unknown", 1)])
    assert renewal.lost == {("t1", 1), (taken.turn_id, 1), ("unknown", 1)}
    assert (await elsewhere.renew([(taken.turn_id, 2)])).lost == frozenset()


async def test_what_is_said_of_an_attempt_is_not_said_of_the_next_one_on_the_same_node(
    turns: Turns, pool: Pool
) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    assert isinstance(await turns.retry("t1", "ada"), Accepted)
    await turns.request_cancel("t1", "ada")
    await expire(pool, "t1")
    assert (await turns.renew([("t1", 1)])).lost == {("t1", 1)}
    await turns.abandon([("t1", 1)])
    row = await turns.find("t1", "ada")
    assert row
    assert (row.state, row.attempt) == ("running", 2)
    assert await turns.sweep() == ["t1"], "the first attempt has renewed the second one's lease"


async def test_what_this_node_has_just_ended_is_not_lost(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    failed = await accepted(turns, asked(conversation_id="c2"))
    await commit(pool, "t1")
    await turns.fail(failed.turn_id, 1, Failure("conflict", "So it goes.", 0))
    assert (await turns.renew([("t1", 1), (failed.turn_id, 1)])).lost == frozenset()


async def test_a_turn_whose_commit_is_in_flight_is_neither_lost_nor_waited_for(
    turns: Turns, pool: Pool
) -> None:
    await accepted(turns)
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("UPDATE turns SET state = 'committed' WHERE id = 't1'")
        async with asyncio.timeout(2):
            assert (await turns.renew([("t1", 1)])).lost == frozenset()


async def test_the_sweep_leaves_a_commit_in_flight_alone(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("UPDATE turns SET state = 'committed' WHERE id = 't1'")
        async with asyncio.timeout(2):
            assert await turns.sweep() == []


async def test_an_expired_turn_whose_commit_is_in_flight_is_waited_for(
    turns: Turns, elsewhere: Turns, pool: Pool
) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("UPDATE turns SET state = 'committed' WHERE id = 't1'")
        waiting = asyncio.create_task(elsewhere.accept(asked()))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    assert isinstance(await waiting, Accepted)
    row = await turns.find("t1", "ada")
    assert row
    assert row.state == "committed"


async def test_a_conversation_somebody_else_started_at_this_moment_is_theirs(
    turns: Turns, elsewhere: Turns, pool: Pool
) -> None:
    """While a stranger waits to become the running turn, the one before it starts the conversation."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO turns (id, conversation, subject, kind, payload_hash, state, node, lease_until) "
            "VALUES ('t1', 'c1', 'ada', 'user_message', '', 'running', 'node-1', now() + interval '1 min')"
        )
        waiting = asyncio.create_task(elsewhere.accept(asked(subject="bob", turn_id="t2")))
        await asyncio.sleep(0.2)  # it has seen neither an owner nor a running turn, and waits in its insert
        assert not waiting.done()
        await connection.execute("UPDATE turns SET state = 'committed' WHERE id = 't1'")
        await connection.execute(
            "INSERT INTO log VALUES (1, now(), 1, 'conversation-c1', 'conversation.started', 'c1', 't1', "
            "'user:ada', '{}')"
        )
    with pytest.raises(ConversationNotFoundError):
        await waiting
    assert await elsewhere.find("t2", "bob") is None


async def test_leases_are_the_databases_clock(turns: Turns, pool: Pool) -> None:
    """Whatever this process believes the time to be, only the database says when a lease is over."""
    await accepted(turns)
    [(left,)] = await execute(
        pool, "SELECT extract(epoch FROM lease_until - accepted_at) FROM turns WHERE id = 't1'"
    )
    assert left == pytest.approx(LEASE_S, abs=0.01)


# --- cancelling ----------------------------------------------------------------------------------


async def test_a_cancel_is_seen_by_the_node_that_runs_the_turn(turns: Turns, elsewhere: Turns) -> None:
    row = await accepted(turns)
    assert (await turns.renew([("t1", 1)])).cancelled == frozenset()
    assert await elsewhere.request_cancel("t1", "ada") == row
    assert await elsewhere.request_cancel("t1", "ada") == row
    assert (await turns.renew([("t1", 1)])).cancelled == {("t1", 1)}


async def test_cancelling_what_has_ended_answers_how_it_ended(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    await commit(pool, "t1")
    row = await turns.request_cancel("t1", "ada")
    assert row
    assert row.state == "committed"
    assert (await turns.renew([("t1", 1)])).cancelled == frozenset()


async def test_a_cancel_that_meets_a_commit_answers_the_commit(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("UPDATE turns SET state = 'committed' WHERE id = 't1'")
        cancelling = asyncio.create_task(turns.request_cancel("t1", "ada"))
        await asyncio.sleep(0.2)
    row = await cancelling
    assert row
    assert row.state == "committed"


# --- a database that is gone ---------------------------------------------------------------------


async def test_without_a_database_every_answer_is_that_the_store_is_unavailable(
    turns: Turns, pool: Pool
) -> None:
    await pool.close()
    for asking in (
        turns.accept(HELLO),
        turns.find("t1", "ada"),
        turns.retry("t1", "ada"),
        turns.renew([("t1", 1)]),
        turns.sweep(),
        turns.fail("t1", 1, Failure("conflict", "So it goes.", 0)),
        turns.abandon([("t1", 1)]),
    ):
        with pytest.raises(StoreUnavailableError):
            await asking


# --- races ---------------------------------------------------------------------------------------


def race(url: str, node: str, requests: list[TurnRequest]) -> list[str]:
    """In a process of its own: accept them all at once and say what came of each."""
    return asyncio.run(_race(url, node, requests))


async def _race(url: str, node: str, requests: list[TurnRequest]) -> list[str]:
    async with open_pool(url, min_size=4, max_size=4) as pool:
        await pool.wait()
        turns = PostgresTurns(pool, node, LEASE_S)
        answers = await asyncio.gather(*(turns.accept(request) for request in requests))
    return [type(answer).__name__ for answer in answers]


@pytest.fixture(scope="module")
def processes() -> object:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


@pytest.mark.may_block("it waits for other processes")
@pytest.mark.parametrize("same_id", [True, False], ids=["one id", "one conversation"])
async def test_two_processes_that_race_get_one_turn_a_conversation(
    database_url: str, pool: Pool, processes: Processes, same_id: bool
) -> None:
    conversations = [f"c{number}" for number in range(40)]
    jobs = [
        (
            database_url,
            node,
            [asked(conversation_id=c, **({"turn_id": f"t-{c}"} if same_id else {})) for c in conversations],
        )
        for node in ("node-1", "node-2")
    ]
    said = Counter(word for words in processes.starmap(race, jobs) for word in words)
    assert said == {"Accepted": 40, "Existing" if same_id else "Busy": 40}
    rows = await execute(
        pool, "SELECT count(*), count(DISTINCT conversation) FROM turns WHERE state = 'running'"
    )
    assert rows == [(40, 40)]


async def test_one_id_raced_over_many_conversations_is_one_turn(turns: Turns, pool: Pool) -> None:
    requests = [asked(turn_id="t1", conversation_id=f"c{number}") for number in range(16)]
    answers = await asyncio.gather(*(turns.accept(request) for request in requests))
    assert Counter(type(answer).__name__ for answer in answers) == {"Accepted": 1, "Existing": 15}
    assert await execute(pool, "SELECT count(*) FROM turns") == [(1,)]


async def test_one_expired_turn_is_taken_over_once(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    answers = await asyncio.gather(
        turns.sweep(),
        *(turns.accept(asked()) for _ in range(8)),
        *(turns.retry("t1", "ada") for _ in range(8)),
    )
    taken = Counter(type(answer).__name__ for answer in answers[1:])
    assert taken["Accepted"] == 1
    assert await execute(pool, "SELECT count(*) FROM turns WHERE state = 'running'") == [(1,)]
