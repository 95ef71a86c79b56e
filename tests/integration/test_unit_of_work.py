"""The unit of work on a real PostgreSQL: both aggregates and the turn's row, all or nothing, once."""

import pytest

from application.ports import Committed
from domain.errors import ConversationNotFoundError
from infrastructure.postgres.unit_of_work import UnitOfWorkOverError
from tests.integration.node import CALL, Store, by, closing


async def test_a_new_conversation_is_started_and_stored_with_its_agent_and_turn(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert work.is_new
        with pytest.raises(ConversationNotFoundError):
            _ = work.conversation
        with pytest.raises(ConversationNotFoundError):
            _ = work.agent
        work.start(by(turn), "coder")
        work.conversation.receive_user_message("m1", "Hello", by(turn))
        committed = await work.commit(closing(turn))
    assert [(e.position, e.type, e.version) for e in committed.events] == [
        (1, "conversation.started", 1),
        (2, "agent.assigned", 1),
        (3, "conversation.user_message_received", 2),
    ]
    assert (committed.first_position, committed.last_position) == (1, 3)
    assert list(committed.events) == list(await store.log.read(1, 3))
    row = await store.turns.find(turn.turn_id, "ada")
    assert row
    assert (row.state, row.first_position, row.last_position, row.provisional_frames) == (
        "committed",
        1,
        3,
        3,
    )
    assert row.payload is None


async def test_what_was_stored_is_there_for_the_next_turn(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert (work.is_new, work.agent.name, work.conversation.version) == (False, "coder", 2)
        work.conversation.request_call("k1", CALL, by(turn, "agent:coder"))
        await work.commit(closing(turn))
    async with store.unit("look") as work:
        assert work.conversation.state == "awaiting_decision"
        assert work.conversation.calls["k1"].arguments == {"seats": [1, 2]}


async def test_the_log_keeps_the_order_in_which_both_aggregates_recorded(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        work.agent.switch("ask", "a", "user:ada", by(turn))
        work.conversation.receive_user_message("two", "two", by(turn))
        work.agent.note_model_call("demo", 1, 2, 3, "stop", by(turn))
        work.conversation.rename("Three", by(turn))
        work.agent.switch("coder", "b", "user:ada", by(turn))
        committed = await work.commit(closing(turn))
    assert [event.type for event in committed.events] == [
        "agent.switched",
        "conversation.user_message_received",
        "agent.model_called",
        "conversation.renamed",
        "agent.switched",
    ]
    assert [event.position for event in committed.events] == [4, 5, 6, 7, 8]
    assert committed.events[0].data["from"] == "coder"


async def test_a_turn_that_repeats_an_earlier_one_is_closed_with_its_positions(store: Store) -> None:
    first = await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        committed = await work.commit(
            closing(turn, first_position=first.first_position, last_position=first.last_position)
        )
    assert committed == Committed(1, 3, ())
    row = await store.turns.find(turn.turn_id, "ada")
    assert row
    assert (row.state, row.first_position, row.last_position) == ("committed", 1, 3)
    assert await store.log.head() == 3


async def test_a_turn_that_recorded_nothing_can_be_closed(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert await work.commit(closing(turn)) == Committed(None, None, ())
    assert await store.log.head() == 0


async def test_what_the_terminal_frame_said_is_kept_with_the_turn(store: Store) -> None:
    turn = await store.turn()
    outcome = {"state": "awaiting_decision", "waiting_for": {"calls": ["k1"]}}
    async with store.unit(turn) as work:
        work.start(by(turn), "coder")
        committed = await work.commit(closing(turn, outcome=outcome))
    assert committed.outcome == outcome
    row = await store.turns.find(turn.turn_id, "ada")
    assert row
    assert row.outcome == outcome


async def test_a_second_commit_is_an_error(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        work.start(by(turn), "coder")
        await work.commit(closing(turn))
        with pytest.raises(UnitOfWorkOverError):
            await work.commit(closing(turn))
    with pytest.raises(UnitOfWorkOverError):
        await work.commit(closing(turn))
    assert await store.log.head() == 2


async def test_a_unit_of_work_that_was_left_or_never_entered_is_of_no_use(store: Store) -> None:
    turn = await store.turn()
    never = store.unit(turn)
    async with store.unit(turn) as left:
        left.start(by(turn), "coder")
    for work in (left, never):
        with pytest.raises(UnitOfWorkOverError):
            await work.commit(closing(turn))
        with pytest.raises(UnitOfWorkOverError):
            work.start(by(turn), "coder")
        with pytest.raises(UnitOfWorkOverError):
            _ = work.conversation


async def test_the_turn_of_somebody_else_is_not_closed(store: Store) -> None:
    turn = await store.turn()
    async with store.unit("other") as work:
        with pytest.raises(ValueError, match="other"):
            await work.commit(closing(turn))
