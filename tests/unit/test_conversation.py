"""What people and agents say, and the life of a conversation: begun, renamed, archived, taken up again."""

from typing import Any

import pytest

from domain.aggregate import By
from domain.conversation import Conversation
from domain.errors import ConversationArchivedError, PlanInExecutionError
from tests.given import BEFORE, NOW, Fact, fact, given, recorded, told
from tests.unit.past import APPROVED, ASKED, ASKED_FREELY, MODIFIED, PLAN, PROPOSED, STARTED

SAID = fact(Conversation.UserMessageReceived, message_id="m1", content="hello")
ANSWERED = fact(
    Conversation.AssistantMessageSent,
    message_id="m2",
    agent="ask",
    content="hi",
    truncated=False,
    finish_reason="stop",
)
CLOSED = {"call_id": "call-1", "tool": "write_file", "detail": None}


def test_a_conversation_begins_with_the_actor_who_owns_it() -> None:
    conversation = Conversation.begin("c1", BEFORE)
    (started,) = recorded(conversation)
    assert told(started) == fact(Conversation.Started)
    assert (started.actor, started.turn_id, conversation.id) == ("user:ada", "turn-1", "conversation-c1")
    assert conversation.state == "idle"


def test_what_a_person_says_is_recorded() -> None:
    given().when(lambda c: c.receive_user_message("m1", "hello", NOW)).then(SAID).leaves(state="idle")


def test_the_same_message_twice_is_recorded_once() -> None:
    given(SAID).when(lambda c: c.receive_user_message("m1", "hello", NOW)).then()


def test_the_same_words_in_another_message_are_said_again() -> None:
    again = fact(Conversation.UserMessageReceived, message_id="m9", content="hello")
    given(SAID).when(lambda c: c.receive_user_message("m9", "hello", NOW)).then(again)


def test_a_message_supersedes_the_calls_that_are_open() -> None:
    given(ASKED).when(lambda c: c.receive_user_message("m1", "hello", NOW)).then(
        fact(Conversation.ToolCallClosed, reason="superseded", **CLOSED), SAID
    ).leaves(state="idle")


def test_a_message_supersedes_the_plan_in_review() -> None:
    given(PROPOSED).when(lambda c: c.receive_user_message("m1", "hello", NOW)).then(
        fact(Conversation.PlanSuperseded, **PLAN), SAID
    ).leaves(state="idle", plan=None)


def test_a_message_cancels_the_plan_in_execution_and_its_calls() -> None:
    given(PROPOSED, APPROVED, STARTED, ASKED).when(lambda c: c.receive_user_message("m1", "hello", NOW)).then(
        fact(Conversation.ToolCallClosed, reason="superseded", **CLOSED),
        fact(Conversation.PlanCancelled, **PLAN, reason="superseded"),
        SAID,
    ).leaves(state="idle", plan=None)


def test_a_message_keeps_the_plan_that_was_sent_back_so_that_its_next_version_can_follow() -> None:
    outcome = given(PROPOSED, MODIFIED).when(lambda c: c.receive_user_message("m1", "hello", NOW)).then(SAID)
    assert outcome.aggregate.plan_in("revision")


def test_an_archived_conversation_takes_no_message() -> None:
    given(fact(Conversation.Archived)).when(lambda c: c.receive_user_message("m1", "hello", NOW)).refused(
        ConversationArchivedError
    )


@pytest.mark.parametrize("name", ["send_assistant_message", "request_call", "propose_plan"])
def test_an_archived_conversation_takes_nothing_from_an_agent(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "send_assistant_message": ("m2", "ask", "hi", "stop", NOW),
        "request_call": ("call-1", {}, NOW),
        "propose_plan": ("p1", "a file", [], "architect", NOW),
    }
    given(fact(Conversation.Archived)).when(lambda c: getattr(c, name)(*arguments[name])).refused(
        ConversationArchivedError
    )


def test_what_an_agent_says_is_recorded() -> None:
    given(SAID).when(lambda c: c.send_assistant_message("m2", "ask", "hi", "stop", NOW)).then(ANSWERED)


def test_the_same_answer_twice_is_recorded_once() -> None:
    given(SAID, ANSWERED).when(lambda c: c.send_assistant_message("m2", "ask", "hi", "stop", NOW)).then()


def test_a_cut_answer_says_so() -> None:
    outcome = given(SAID).when(
        lambda c: c.send_assistant_message("m2", "ask", "hi", "cancelled", NOW, truncated=True)
    )
    assert outcome.events[0].truncated is True


def test_a_new_title_is_recorded_once() -> None:
    title = fact(Conversation.Renamed, title="Flight")
    given().when(lambda c: c.rename("Flight", NOW)).then(title).leaves(title="Flight")
    given(title).when(lambda c: c.rename("Flight", NOW)).then()


@pytest.mark.parametrize(
    ("past", "closings"),
    [
        ([], []),
        ([ASKED], [fact(Conversation.ToolCallClosed, reason="cancelled", **CLOSED)]),
        ([PROPOSED], [fact(Conversation.PlanSuperseded, **PLAN)]),
        ([PROPOSED, APPROVED], [fact(Conversation.PlanCancelled, **PLAN, reason="cancelled")]),
    ],
)
def test_archiving_closes_what_is_open(past: list[Fact], closings: list[Fact]) -> None:
    given(*past).when(lambda c: c.archive(NOW)).then(*closings, fact(Conversation.Archived)).leaves(
        state="archived"
    )


def test_archiving_twice_is_recorded_once() -> None:
    given(fact(Conversation.Archived)).when(lambda c: c.archive(NOW)).then()


def test_reopening_is_recorded_once_and_only_where_it_was_archived() -> None:
    given(fact(Conversation.Archived)).when(lambda c: c.reopen(NOW)).then(fact(Conversation.Reopened)).leaves(
        state="idle"
    )
    given().when(lambda c: c.reopen(NOW)).then()
    given(fact(Conversation.Archived), fact(Conversation.Reopened)).when(lambda c: c.reopen(NOW)).then()


def test_the_agent_can_be_changed_whatever_is_open_but_a_plan_in_execution() -> None:
    for past in ([], [ASKED], [ASKED_FREELY], [PROPOSED]):
        given(*past).when(lambda c: c.refuse_switch()).then()
    given(PROPOSED, APPROVED).when(lambda c: c.refuse_switch()).refused(PlanInExecutionError)
    given(fact(Conversation.Archived)).when(lambda c: c.refuse_switch()).refused(ConversationArchivedError)


def test_a_stopped_turn_is_recorded_once() -> None:
    given(SAID).when(lambda c: c.cancel_turn(NOW)).then(fact(Conversation.TurnCancelled))
    given(SAID, lambda c: c.cancel_turn(NOW)).when(lambda c: c.cancel_turn(NOW)).then()


def test_each_stopped_turn_is_recorded() -> None:
    given(fact(Conversation.TurnCancelled)).when(lambda c: c.cancel_turn(NOW)).then(
        fact(Conversation.TurnCancelled)
    )


def test_a_stopped_turn_leaves_calls_open_that_wait_outside_of_a_plan() -> None:
    outcome = given(ASKED_FREELY).when(lambda c: c.cancel_turn(NOW)).then(fact(Conversation.TurnCancelled))
    assert outcome.aggregate.state == "awaiting_tool_results"


def test_a_stopped_turn_ends_the_plan_in_execution_and_its_calls() -> None:
    given(PROPOSED, APPROVED, STARTED, ASKED).when(lambda c: c.cancel_turn(NOW)).then(
        fact(Conversation.ToolCallClosed, reason="cancelled", **CLOSED),
        fact(Conversation.PlanCancelled, **PLAN, reason="cancelled"),
        fact(Conversation.TurnCancelled),
    ).leaves(state="idle")


def test_every_event_names_who_signed_it_and_in_which_turn() -> None:
    conversation = Conversation.begin("c1", By("user:ada", "t1"))
    conversation.send_assistant_message("m1", "ask", "hi", "stop", By("agent:ask", "t2"))
    assert [(e.actor, e.turn_id) for e in recorded(conversation)] == [
        ("user:ada", "t1"),
        ("agent:ask", "t2"),
    ]
