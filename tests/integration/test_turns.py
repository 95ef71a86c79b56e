"""Turns on a real PostgreSQL: accepted once, one running a conversation, leased by the database's clock."""

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from multiprocessing.pool import Pool as Processes

import pytest

from application.errors import StoreUnavailableError, TurnIdReusedError
from application.ports import Accepted, Busy, Existing, Failure, TurnRequest, Turns
from domain.errors import ConversationNotFoundError
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.integration.turn_helpers import HELLO, accepted, asked, execute, expire, start_conversation

LEASE_S = 30.0


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_pool(database_url, min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
def turns(pool: Pool) -> Turns:
    return PostgresTurns(pool, "node-1", LEASE_S)


@pytest.fixture
def elsewhere(pool: Pool) -> Turns:
    return PostgresTurns(pool, "node-2", LEASE_S)


async def commit(pool: Pool, turn_id: str) -> None:
    await execute(
        pool,
        "UPDATE turns SET state = 'committed', ended_at = now(), payload = NULL, "
        "first_position = 1, last_position = 2 WHERE id = %s",
        turn_id,
    )


# --- accepting -----------------------------------------------------------------------------------


async def test_an_accepted_turn_is_kept_with_all_that_was_asked(turns: Turns) -> None:
    row = await accepted(turns)
    assert (row.state, row.attempt, row.node, row.ended_at) == ("running", 1, "node-1", None)
    assert (row.turn_id, row.conversation_id, row.subject, row.kind) == ("t1", "c1", "ada", "user_message")
    assert (row.payload, row.payload_hash) == (HELLO.payload, HELLO.payload_hash)
    assert abs((row.accepted_at - datetime.now(UTC)).total_seconds()) < 5
    assert await turns.find("t1", "ada") == row


async def test_the_same_turn_is_accepted_once(turns: Turns, elsewhere: Turns) -> None:
    row = await accepted(turns)
    assert await turns.accept(HELLO) == Existing(row)
    assert await elsewhere.accept(HELLO) == Existing(row)


async def test_a_repeat_with_another_payload_is_left_to_the_caller_to_judge(turns: Turns) -> None:
    row = await accepted(turns)
    other = asked(turn_id="t1", payload={}, payload_hash="0")
    assert await turns.accept(other) == Existing(row)


async def test_a_repeat_that_names_a_fresh_conversation_finds_its_turn(turns: Turns) -> None:
    row = await accepted(turns)
    assert await turns.accept(asked(turn_id="t1", conversation_id="made-anew")) == Existing(row)


async def test_a_conversation_runs_one_turn(turns: Turns, elsewhere: Turns) -> None:
    await accepted(turns)
    assert await elsewhere.accept(asked()) == Busy("t1")


async def test_another_conversation_is_not_held_up(turns: Turns) -> None:
    await accepted(turns)
    await accepted(turns, asked(conversation_id="c2"))


async def test_the_next_turn_is_accepted_when_one_has_ended(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    await commit(pool, "t1")
    await accepted(turns, asked())
    answer = await turns.accept(HELLO)
    assert isinstance(answer, Existing)
    assert (answer.row.state, answer.row.payload, answer.row.last_position) == ("committed", None, 2)


# --- owners --------------------------------------------------------------------------------------


async def test_a_stored_conversation_of_somebody_else_does_not_exist(turns: Turns, pool: Pool) -> None:
    await start_conversation(pool, actor="user:ada")
    with pytest.raises(ConversationNotFoundError):
        await turns.accept(asked(subject="bob"))
    await accepted(turns, asked(subject="ada"))


@pytest.mark.parametrize("actor", ["system", "agent:bob", "bob", "user:bob2", "user:"])
async def test_only_the_person_of_the_first_event_owns_a_conversation(
    turns: Turns, pool: Pool, actor: str
) -> None:
    await start_conversation(pool, actor=actor)
    with pytest.raises(ConversationNotFoundError):
        await turns.accept(asked(subject="bob"))


async def test_a_conversation_that_is_just_being_started_belongs_to_who_starts_it(turns: Turns) -> None:
    await accepted(turns)
    with pytest.raises(ConversationNotFoundError):
        await turns.accept(asked(subject="bob"))


async def test_a_conversation_that_was_never_started_belongs_to_nobody(turns: Turns) -> None:
    await accepted(turns)
    await turns.fail("t1", 1, Failure("model_unavailable", "So it goes.", 0))
    await accepted(turns, asked(subject="bob"))
    with pytest.raises(ConversationNotFoundError):
        await turns.retry("t1", "ada")


async def test_a_turn_id_of_somebody_else_is_answered_like_a_reused_one_of_ones_own(
    turns: Turns, pool: Pool
) -> None:
    await accepted(turns)
    with pytest.raises(TurnIdReusedError) as refusal:
        await turns.accept(asked(turn_id="t1", subject="bob", conversation_id="c2"))
    assert str(refusal.value) == str(TurnIdReusedError(turn_id="t1"))


async def test_a_foreign_conversation_and_a_foreign_turn_id_say_only_that_there_is_no_conversation(
    turns: Turns,
) -> None:
    await accepted(turns)
    with pytest.raises(ConversationNotFoundError):
        await turns.accept(asked(turn_id="t1", subject="bob"))


async def test_the_turn_of_somebody_else_cannot_be_found_cancelled_or_retried(turns: Turns) -> None:
    row = await accepted(turns)
    assert await turns.find("t1", "bob") is None
    assert await turns.request_cancel("t1", "bob") is None
    assert (await turns.renew(["t1"])).cancelled == frozenset()
    assert await turns.retry("t1", "bob") is None
    assert await turns.find("t1", "ada") == row


# --- ending --------------------------------------------------------------------------------------


async def test_a_failed_turn_keeps_what_the_person_sent(turns: Turns) -> None:
    await accepted(turns)
    assert await turns.fail("t1", 1, Failure("model_timeout", "So it goes.", 7))
    row = await turns.find("t1", "ada")
    assert row
    assert (row.state, row.code, row.provisional_frames) == ("failed", "model_timeout", 7)
    assert row.outcome == {"message": "So it goes."}
    assert row.payload == HELLO.payload
    assert row.ended_at is not None
    assert row.ended_at >= row.accepted_at


async def test_a_turn_fails_once_and_only_where_it_runs(turns: Turns, elsewhere: Turns) -> None:
    await accepted(turns)
    assert not await elsewhere.fail("t1", 1, Failure("conflict", "So it goes.", 0))
    assert not await turns.fail("t1", 2, Failure("conflict", "So it goes.", 0))
    assert not await turns.fail("unknown", 1, Failure("conflict", "So it goes.", 0))
    assert await turns.fail("t1", 1, Failure("conflict", "So it goes.", 0))
    assert not await turns.fail("t1", 1, Failure("model_timeout", "So it goes.", 9))


async def test_a_withdrawn_turn_was_never_there(turns: Turns) -> None:
    await accepted(turns)
    await turns.withdraw("t1", 1)
    assert await turns.find("t1", "ada") is None
    assert (await accepted(turns)).attempt == 1


async def test_a_withdrawn_retry_can_be_retried_and_its_number_is_not_used_again(turns: Turns) -> None:
    await accepted(turns)
    await turns.fail("t1", 1, Failure("conflict", "So it goes.", 0))
    await turns.retry("t1", "ada")
    await turns.withdraw("t1", 2)
    row = await turns.find("t1", "ada")
    assert row
    assert (row.state, row.attempt, row.payload) == ("abandoned", 2, HELLO.payload)
    again = await turns.retry("t1", "ada")
    assert isinstance(again, Accepted)
    assert again.row.attempt == 3


async def test_only_a_running_turn_of_this_node_and_attempt_is_withdrawn(
    turns: Turns, elsewhere: Turns
) -> None:
    row = await accepted(turns)
    await elsewhere.withdraw("t1", 1)
    await turns.withdraw("t1", 2)
    assert await turns.find("t1", "ada") == row
    await turns.fail("t1", 1, Failure("conflict", "So it goes.", 0))
    await turns.withdraw("t1", 1)
    assert await turns.find("t1", "ada")


async def test_a_node_that_shuts_down_abandons_its_own_turns_by_name(turns: Turns, elsewhere: Turns) -> None:
    await accepted(turns)
    theirs = await accepted(elsewhere, asked(conversation_id="c2"))
    await turns.abandon(["t1", theirs.turn_id, "unknown"])
    row = await turns.find("t1", "ada")
    assert row
    assert (row.state, row.code, row.payload) == ("abandoned", "turn_abandoned", HELLO.payload)
    assert await turns.find(theirs.turn_id, "ada") == theirs


# --- trying again --------------------------------------------------------------------------------


async def test_a_failed_turn_runs_again_as_its_next_attempt(turns: Turns, elsewhere: Turns) -> None:
    before = await accepted(turns)
    await turns.request_cancel("t1", "ada")
    await turns.fail("t1", 1, Failure("model_timeout", "So it goes.", 7))
    answer = await elsewhere.retry("t1", "ada")
    assert isinstance(answer, Accepted)
    row = answer.row
    assert (row.state, row.attempt, row.node) == ("running", 2, "node-2")
    assert (row.code, row.outcome, row.ended_at, row.provisional_frames) == (None, None, None, 0)
    assert (row.payload, row.accepted_at) == (HELLO.payload, before.accepted_at)
    assert await elsewhere.renew(["t1"]) == await elsewhere.renew(["t1"])
    assert (await elsewhere.renew(["t1"])).cancelled == frozenset()


async def test_what_runs_or_is_committed_is_not_retried(turns: Turns, pool: Pool) -> None:
    row = await accepted(turns)
    assert await turns.retry("t1", "ada") == Existing(row)
    await commit(pool, "t1")
    answer = await turns.retry("t1", "ada")
    assert isinstance(answer, Existing)
    assert answer.row.state == "committed"


async def test_a_turn_is_not_retried_while_another_one_runs(turns: Turns) -> None:
    await accepted(turns)
    await turns.fail("t1", 1, Failure("conflict", "So it goes.", 0))
    running = await accepted(turns, asked())
    assert await turns.retry("t1", "ada") == Busy(running.turn_id)


async def test_an_unknown_turn_is_not_retried(turns: Turns) -> None:
    assert await turns.retry("unknown", "ada") is None


async def test_a_turn_whose_lease_ran_out_is_retried_without_waiting_for_the_sweep(
    turns: Turns, elsewhere: Turns, pool: Pool
) -> None:
    await accepted(turns)
    await expire(pool, "t1")
    answer = await elsewhere.retry("t1", "ada")
    assert isinstance(answer, Accepted)
    assert (answer.row.attempt, answer.row.node) == (2, "node-2")


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


async def test_a_renewed_lease_lasts(pool: Pool) -> None:
    turns = PostgresTurns(pool, "node-1", LEASE_S)
    await accepted(turns)
    await expire(pool, "t1")
    assert await turns.renew(["t1"]) == await turns.renew(["t1"])
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
    renewal = await turns.renew(["t1", taken.turn_id, "unknown"])
    assert renewal.lost == {"t1", taken.turn_id, "unknown"}
    assert (await elsewhere.renew([taken.turn_id])).lost == frozenset()


async def test_what_this_node_has_just_ended_is_not_lost(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    failed = await accepted(turns, asked(conversation_id="c2"))
    await commit(pool, "t1")
    await turns.fail(failed.turn_id, 1, Failure("conflict", "So it goes.", 0))
    assert (await turns.renew(["t1", failed.turn_id])).lost == frozenset()


async def test_a_turn_whose_commit_is_in_flight_is_neither_lost_nor_waited_for(
    turns: Turns, pool: Pool
) -> None:
    await accepted(turns)
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("UPDATE turns SET state = 'committed' WHERE id = 't1'")
        async with asyncio.timeout(2):
            assert (await turns.renew(["t1"])).lost == frozenset()


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
    assert (await turns.renew(["t1"])).cancelled == frozenset()
    assert await elsewhere.request_cancel("t1", "ada") == row
    assert await elsewhere.request_cancel("t1", "ada") == row
    assert (await turns.renew(["t1"])).cancelled == {"t1"}


async def test_cancelling_what_has_ended_answers_how_it_ended(turns: Turns, pool: Pool) -> None:
    await accepted(turns)
    await commit(pool, "t1")
    row = await turns.request_cancel("t1", "ada")
    assert row
    assert row.state == "committed"
    assert (await turns.renew(["t1"])).cancelled == frozenset()


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
        turns.renew(["t1"]),
        turns.sweep(),
        turns.fail("t1", 1, Failure("conflict", "So it goes.", 0)),
        turns.abandon(["t1"]),
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
