"""Turns on a real PostgreSQL: accepted once, one running a conversation, leased by the database's clock."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from application.errors import TurnIdReusedError
from application.ports import Accepted, Busy, Existing, Failure, Turns
from domain.errors import ConversationNotFoundError
from infrastructure.postgres.pool import Pool
from tests.integration.turn_helpers import HELLO, accepted, asked, commit, execute, expire, start_conversation

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
    other = asked(turn_id="t1", payload={}, payload_hash="0" * 64)
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


async def test_a_first_turn_that_comes_after_it_was_asked_whose_it_is_is_not_told_to_others(
    turns: Turns, pool: Pool
) -> None:
    asked_too_early = """
        CREATE OR REPLACE FUNCTION turn_is_foreign(p_conversation text, p_subject text) RETURNS boolean
        LANGUAGE sql AS 'SELECT false'"""
    failed = (await accepted(turns, asked(subject="bob"))).turn_id
    await turns.fail(failed, 1, Failure("model_timeout", "It was silent.", 0))
    await execute(pool, asked_too_early)
    await accepted(turns)
    with pytest.raises(ConversationNotFoundError):
        await turns.accept(asked(subject="bob"))
    with pytest.raises(ConversationNotFoundError):
        await turns.retry(failed, "bob")
    assert isinstance(await turns.accept(asked()), Busy)


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
    assert (await turns.renew([("t1", 1)])).cancelled == frozenset()
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
    await turns.abandon([("t1", 1), (theirs.turn_id, 1), ("unknown", 1)])
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
    assert await elsewhere.renew([("t1", 2)]) == await elsewhere.renew([("t1", 2)])
    assert (await elsewhere.renew([("t1", 2)])).cancelled == frozenset()


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


async def test_how_turns_stand_is_told_without_what_was_asked_for(turns: Turns) -> None:
    row = await accepted(turns)
    assert await turns.standing(["t1", "t2"]) == [replace(row, payload=None)]
