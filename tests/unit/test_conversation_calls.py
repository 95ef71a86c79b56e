"""A tool call's life: asked for, decided on, run or not, and answered exactly once."""

from typing import Any

import pytest

from domain.aggregate import By
from domain.conversation import Conversation
from domain.errors import (
    CallAlreadyAnsweredError,
    CallAlreadyDecidedError,
    CallClosedError,
    CallNeedsNoDecisionError,
    CallNotApprovedError,
    CallNotFoundError,
    ConversationArchivedError,
    MinutebookError,
    NothingAwaitedError,
)
from tests.given import BEFORE, NOW, Fact, fact, given, recorded, told
from tests.unit.past import ARGUMENTS, ASKED, ASKED_FREELY, asked

# call-1 waits for a person, call-2 may run as it is.
CALL = {"call_id": "call-1", "tool": "write_file"}
FREE_CALL = {"call_id": "call-2", "tool": "read_file"}
OTHER = {"path": "b.txt"}

APPROVED = fact(Conversation.ToolCallApproved, **CALL, arguments=ARGUMENTS, feedback=None)
EDITED = fact(
    Conversation.ToolCallEdited, **CALL, arguments_before=ARGUMENTS, arguments_after=OTHER, feedback="b"
)
REJECTED = fact(Conversation.ToolCallRejected, **CALL, feedback="no")
RAN = fact(Conversation.ToolResultReceived, **FREE_CALL, result={"lines": 0}, error=None)
LATER = By("user:ada", "turn-3")
ARCHIVED = fact(Conversation.Archived)


def closed(reason: str, call: dict[str, str] = CALL) -> Fact:
    return fact(Conversation.ToolCallClosed, **call, reason=reason, detail=None)


# --- asking --------------------------------------------------------------------------------------


def test_a_call_is_recorded_and_waits_for_a_decision_or_a_result() -> None:
    given().when(lambda c: c.request_call("call-1", _parts(ASKED), NOW)).then(ASKED).leaves(
        state="awaiting_decision", agent_may_go_on=False
    )
    given().when(lambda c: c.request_call("call-2", _parts(ASKED_FREELY), NOW)).then(ASKED_FREELY).leaves(
        state="awaiting_tool_results", agent_may_go_on=False
    )


@pytest.mark.parametrize("past", [[ASKED_FREELY], [ASKED_FREELY, RAN]])
def test_a_call_asked_for_twice_is_recorded_once(past: list[Fact]) -> None:
    given(*past).when(lambda c: c.request_call("call-2", _parts(ASKED_FREELY), NOW)).then()


def test_several_calls_of_one_answer_are_kept_in_order_and_a_decision_comes_before_results() -> None:
    outcome = given(ASKED_FREELY, ASKED).when(
        lambda c: c.request_call("call-3", _parts(asked("call-3")), NOW)
    )
    assert list(outcome.aggregate.calls) == ["call-2", "call-1", "call-3"]
    assert outcome.aggregate.state == "awaiting_decision"


def _parts(request: Fact) -> dict[str, Any]:
    return {name: value for name, value in request.fields.items() if name != "call_id"}


# --- answering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [{"lines": 0}, 0, 0.0, False, "", None, [], {}, 10**40])
def test_any_json_value_is_a_result(result: Any) -> None:
    given(ASKED_FREELY).when(lambda c: c.receive_tool_result("call-2", result, None, NOW)).then(
        fact(Conversation.ToolResultReceived, **FREE_CALL, result=result, error=None)
    ).answered(None).leaves(state="idle", agent_may_go_on=True)


def test_an_error_is_a_result_too() -> None:
    given(ASKED_FREELY).when(lambda c: c.receive_tool_result("call-2", None, "no such file", NOW)).then(
        fact(Conversation.ToolResultReceived, **FREE_CALL, result=None, error="no such file")
    )


@pytest.mark.parametrize("decision", [APPROVED, EDITED])
def test_a_call_that_was_let_run_takes_its_result(decision: Fact) -> None:
    given(ASKED, decision).when(lambda c: c.receive_tool_result("call-1", 1, None, NOW)).then(
        fact(Conversation.ToolResultReceived, **CALL, result=1, error=None)
    )


def test_the_agent_goes_on_only_after_the_last_result() -> None:
    given(ASKED, ASKED_FREELY).when(lambda c: c.receive_tool_result("call-2", {"lines": 0}, None, NOW)).then(
        RAN
    ).leaves(state="awaiting_decision", agent_may_go_on=False)


def test_the_same_result_again_is_quiet_and_names_the_first_turn() -> None:
    given(ASKED_FREELY, RAN).when(
        lambda c: c.receive_tool_result("call-2", {"lines": 0}, None, NOW)
    ).repeats()


def test_the_order_of_keys_makes_no_other_result() -> None:
    past = given(ASKED_FREELY)
    past.when(lambda c: c.receive_tool_result("call-2", {"a": 1, "b": 2}, None, BEFORE))
    past.when(lambda c: c.receive_tool_result("call-2", {"b": 2, "a": 1}, None, NOW)).repeats()


@pytest.mark.parametrize(
    ("result", "error"),
    [({"lines": 1}, None), ({"lines": False}, None), ({"lines": 0.0}, None), (None, "failed")],
)
def test_another_result_for_an_answered_call_is_refused(result: Any, error: str | None) -> None:
    given(ASKED_FREELY, RAN).when(lambda c: c.receive_tool_result("call-2", result, error, NOW)).refused(
        CallAlreadyAnsweredError, call_id="call-2"
    )


def test_a_result_for_a_call_nobody_approved_is_refused() -> None:
    given(ASKED).when(lambda c: c.receive_tool_result("call-1", 1, None, NOW)).refused(
        CallNotApprovedError, call_id="call-1"
    )


def test_a_result_for_a_rejected_call_is_refused() -> None:
    given(ASKED, REJECTED).when(lambda c: c.receive_tool_result("call-1", 1, None, NOW)).refused(
        CallAlreadyAnsweredError, call_id="call-1"
    )


@pytest.mark.parametrize("reason", ["superseded", "forbidden", "cancelled", "expired"])
def test_a_closed_call_takes_neither_a_result_nor_a_decision(reason: str) -> None:
    past = given(ASKED, closed(reason))
    past.when(lambda c: c.receive_tool_result("call-1", 1, None, NOW)).refused(CallClosedError, reason=reason)
    past.when(lambda c: c.decide_call("call-1", "approve", None, None, NOW)).refused(
        CallClosedError, reason=reason
    )


def test_a_result_nobody_asked_for_is_refused() -> None:
    given().when(lambda c: c.receive_tool_result("call-1", 1, None, NOW)).refused(
        NothingAwaitedError, state="idle", message="tool_result"
    )


def test_a_result_for_an_unknown_call_is_refused() -> None:
    given(ASKED).when(lambda c: c.receive_tool_result("call-9", 1, None, NOW)).refused(
        CallNotFoundError, call_id="call-9"
    )


def test_an_archived_conversation_takes_neither_a_result_nor_a_decision() -> None:
    past = given(ASKED_FREELY, RAN, ARCHIVED)
    past.when(lambda c: c.receive_tool_result("call-2", {"lines": 0}, None, NOW)).refused(
        ConversationArchivedError
    )
    past.when(lambda c: c.decide_call("call-2", "approve", None, None, NOW)).refused(
        ConversationArchivedError
    )


# --- deciding ------------------------------------------------------------------------------------


def test_an_approved_call_is_announced_with_its_arguments_and_may_run() -> None:
    given(ASKED).when(lambda c: c.decide_call("call-1", "approve", None, None, NOW)).then(APPROVED).answered(
        None
    ).leaves(state="awaiting_tool_results")


def test_an_edited_call_is_announced_with_its_arguments_before_and_after() -> None:
    outcome = given(ASKED).when(lambda c: c.decide_call("call-1", "edit", OTHER, "b", NOW)).then(EDITED)
    assert outcome.aggregate.calls["call-1"].arguments == OTHER


def test_a_rejected_call_is_answered_with_the_feedback_and_the_agent_may_go_on() -> None:
    given(ASKED).when(lambda c: c.decide_call("call-1", "reject", None, "no", NOW)).then(REJECTED).leaves(
        state="idle", agent_may_go_on=True
    )


SAME: list[tuple[Fact, Any]] = [
    (APPROVED, ("approve", None, None)),
    (APPROVED, ("approve", None, "another word about it")),
    (EDITED, ("edit", OTHER, "b")),
    (EDITED, ("edit", OTHER, None)),
    (REJECTED, ("reject", None, "no")),
]
DIFFERENT: list[tuple[Fact, Any]] = [
    (APPROVED, ("reject", None, None)),
    (APPROVED, ("edit", ARGUMENTS, None)),
    (EDITED, ("approve", None, None)),
    (EDITED, ("edit", ARGUMENTS, None)),
    (REJECTED, ("approve", None, None)),
    (REJECTED, ("reject", None, "never")),
]


@pytest.mark.parametrize(("taken", "again"), SAME)
def test_the_same_decision_again_is_quiet_and_names_the_first_turn(
    taken: Fact, again: tuple[Any, Any, Any]
) -> None:
    word, arguments, feedback = again
    given(ASKED, taken).when(lambda c: c.decide_call("call-1", word, arguments, feedback, NOW)).repeats()


@pytest.mark.parametrize(("taken", "other"), DIFFERENT)
def test_another_decision_on_a_decided_call_is_refused(taken: Fact, other: tuple[Any, Any, Any]) -> None:
    word, arguments, feedback = other
    given(ASKED, taken).when(lambda c: c.decide_call("call-1", word, arguments, feedback, NOW)).refused(
        CallAlreadyDecidedError, call_id="call-1"
    )


@pytest.mark.parametrize(
    "end", [fact(Conversation.ToolResultReceived, **CALL, result=1, error=None), closed("superseded")]
)
def test_a_decision_is_remembered_after_the_call_has_its_result(end: Fact) -> None:
    past = given(ASKED, APPROVED, end)
    past.when(lambda c: c.decide_call("call-1", "approve", None, None, NOW)).repeats()
    past.when(lambda c: c.decide_call("call-1", "reject", None, None, NOW)).refused(CallAlreadyDecidedError)


def test_a_decision_is_remembered_with_its_own_turn_and_not_with_that_of_the_result() -> None:
    past = given(ASKED, APPROVED)
    past.when(lambda c: c.receive_tool_result("call-1", 1, None, NOW))
    past.when(lambda c: c.decide_call("call-1", "approve", None, None, LATER)).repeats(BEFORE.turn_id)
    past.when(lambda c: c.receive_tool_result("call-1", 1, None, LATER)).repeats(NOW.turn_id)


@pytest.mark.parametrize("past", [[ASKED_FREELY], [ASKED_FREELY, RAN]])
def test_a_decision_on_a_call_that_may_run_as_it_is_is_refused(past: list[Fact]) -> None:
    given(*past).when(lambda c: c.decide_call("call-2", "approve", None, None, NOW)).refused(
        CallNeedsNoDecisionError, call_id="call-2"
    )


@pytest.mark.parametrize(("past", "error"), [([], NothingAwaitedError), ([ASKED], CallNotFoundError)])
def test_a_decision_on_an_unknown_call_is_refused(past: list[Fact], error: type[MinutebookError]) -> None:
    given(*past).when(lambda c: c.decide_call("call-9", "approve", None, None, NOW)).refused(error)


# --- closing -------------------------------------------------------------------------------------


def test_a_forbidden_call_is_answered_at_once() -> None:
    given(ASKED).when(lambda c: c.close_call("call-1", "forbidden", NOW, "no write to /etc")).then(
        fact(Conversation.ToolCallClosed, **CALL, reason="forbidden", detail="no write to /etc")
    ).leaves(state="idle")


@pytest.mark.parametrize("past", [[], [ASKED, closed("cancelled")], [ASKED, REJECTED]])
def test_closing_a_call_that_is_not_open_is_quiet(past: list[Fact]) -> None:
    given(*past).when(lambda c: c.close_call("call-1", "cancelled", NOW)).then()


def test_a_model_that_reuses_its_ids_gets_calls_of_ours_for_each() -> None:
    conversation = Conversation.begin("c1", BEFORE)
    for call_id in ("ours-1", "ours-2"):
        conversation.request_call(call_id, _parts(asked(call_id, requires_decision=False)), BEFORE)
        conversation.receive_tool_result(call_id, call_id, None, BEFORE)
    requests = [
        told(e).fields for e in recorded(conversation) if isinstance(e, Conversation.ToolCallRequested)
    ]
    assert [(f["call_id"], f["model_call_id"]) for f in requests] == [
        ("ours-1", "call_0"),
        ("ours-2", "call_0"),
    ]
