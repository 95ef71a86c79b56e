"""A plan's life: proposed, decided on, carried out subtask by subtask, or given up."""

from typing import Any

import pytest

from domain.conversation import Conversation
from domain.errors import (
    ConversationArchivedError,
    InvalidPlanError,
    MinutebookError,
    NothingAwaitedError,
    PlanAlreadyDecidedError,
    PlanNotFoundError,
)
from tests.given import NOW, Fact, fact, given
from tests.unit.past import (
    APPROVED,
    ASKED,
    ASKED_FREELY,
    FIRST,
    FIRST_DONE,
    MODIFIED,
    PLAN,
    PROPOSED,
    SECOND,
    SECOND_STARTED,
    STARTED,
)

SUBTASKS = [FIRST.to_json(), SECOND.to_json()]
REJECTED = fact(Conversation.PlanRejected, **PLAN, feedback="no")
SUPERSEDED = fact(
    Conversation.ToolCallClosed, call_id="call-1", tool="write_file", reason="superseded", detail=None
)
COMPLETED = fact(Conversation.PlanCompleted, **PLAN)

Decision = tuple[Any, str | None]
TAKEN: dict[str, tuple[Fact, Decision]] = {
    "approve": (APPROVED, ("approve", None)),
    "modify": (MODIFIED, ("modify", "shorter")),
    "reject": (REJECTED, ("reject", "no")),
}


# --- proposing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [[], [ASKED], [PROPOSED, REJECTED]])
def test_a_plan_is_proposed_as_version_1_and_waits_for_a_person(past: list[Fact]) -> None:
    given(*past).when(lambda c: c.propose_plan("p1", "a file", SUBTASKS, "architect", NOW)).then(
        PROPOSED
    ).leaves(state="plan_in_review", agent_may_go_on=False)


def test_a_plan_sent_back_returns_as_its_next_version() -> None:
    second = fact(PROPOSED.type, **{**PROPOSED.fields, "plan_version": 2})
    given(PROPOSED, MODIFIED).when(lambda c: c.propose_plan("p9", "a file", SUBTASKS, "architect", NOW)).then(
        second
    ).leaves(state="plan_in_review")


@pytest.mark.parametrize("past", [[PROPOSED], [PROPOSED, APPROVED]])
def test_a_second_plan_beside_an_open_one_is_refused(past: list[Fact]) -> None:
    given(*past).when(lambda c: c.propose_plan("p1", "a file", SUBTASKS, "architect", NOW)).refused(
        InvalidPlanError
    )


def test_a_plan_that_cannot_be_carried_out_is_refused() -> None:
    given().when(lambda c: c.propose_plan("p1", "a file", [], "architect", NOW)).refused(InvalidPlanError)


# --- deciding ------------------------------------------------------------------------------------


def test_an_approved_plan_is_carried_out() -> None:
    given(PROPOSED).when(lambda c: c.decide_plan("p1", 1, "approve", None, NOW)).then(APPROVED).answered(
        None
    ).leaves(state="plan_in_execution", agent_may_go_on=True)


def test_a_plan_sent_back_is_revised() -> None:
    given(PROPOSED).when(lambda c: c.decide_plan("p1", 1, "modify", "shorter", NOW)).then(MODIFIED).leaves(
        state="idle", agent_may_go_on=True
    )


def test_a_rejected_plan_is_gone() -> None:
    given(PROPOSED).when(lambda c: c.decide_plan("p1", 1, "reject", "no", NOW)).then(REJECTED).leaves(
        state="idle", plan=None
    )


@pytest.mark.parametrize("name", TAKEN)
def test_a_decision_on_the_plan_supersedes_calls_that_are_open_beside_it(name: str) -> None:
    recorded, (decision, feedback) = TAKEN[name]
    given(ASKED, PROPOSED).when(lambda c: c.decide_plan("p1", 1, decision, feedback, NOW)).then(
        SUPERSEDED, recorded
    )


@pytest.mark.parametrize("name", TAKEN)
def test_the_same_decision_on_a_plan_again_is_quiet_and_names_the_first_turn(name: str) -> None:
    recorded, (decision, feedback) = TAKEN[name]
    given(PROPOSED, recorded).when(lambda c: c.decide_plan("p1", 1, decision, feedback, NOW)).repeats()


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("other", [("approve", None), ("modify", "longer"), ("reject", "never")])
def test_another_decision_on_a_decided_plan_is_refused(name: str, other: Decision) -> None:
    if name == other[0] == "approve":
        other = ("reject", None)
    given(PROPOSED, TAKEN[name][0]).when(lambda c: c.decide_plan("p1", 1, *other, by=NOW)).refused(
        PlanAlreadyDecidedError, plan_id="p1", plan_version=1
    )


@pytest.mark.parametrize(
    ("past", "plan_id", "version", "error"),
    [
        ([], "p1", 1, NothingAwaitedError),
        ([PROPOSED, APPROVED], "p2", 1, NothingAwaitedError),
        ([PROPOSED, fact(Conversation.PlanSuperseded, **PLAN)], "p1", 1, NothingAwaitedError),
        ([PROPOSED], "p2", 1, PlanNotFoundError),
        ([PROPOSED], "p1", 2, PlanNotFoundError),
        ([PROPOSED, fact(Conversation.Archived)], "p1", 1, ConversationArchivedError),
    ],
)
def test_a_decision_on_a_plan_nobody_asks_about_is_refused(
    past: list[Fact], plan_id: str, version: int, error: type[MinutebookError]
) -> None:
    given(*past).when(lambda c: c.decide_plan(plan_id, version, "approve", None, NOW)).refused(error)


# --- carrying out --------------------------------------------------------------------------------


def test_the_next_subtask_is_taken_up_once() -> None:
    given(PROPOSED, APPROVED).when(lambda c: c.start_subtask(FIRST, NOW)).then(STARTED)
    given(PROPOSED, APPROVED, STARTED).when(lambda c: c.start_subtask(FIRST, NOW)).then()


@pytest.mark.parametrize(
    "past", [[APPROVED], [APPROVED, STARTED], [APPROVED, STARTED, FIRST_DONE, SECOND_STARTED]]
)
def test_a_subtask_out_of_turn_is_refused(past: list[Fact]) -> None:
    task = FIRST if SECOND_STARTED in past else SECOND
    given(PROPOSED, *past).when(lambda c: c.start_subtask(task, NOW)).refused(NothingAwaitedError)


def test_a_subtask_is_done_when_its_calls_are_answered() -> None:
    past = given(PROPOSED, APPROVED, STARTED, ASKED_FREELY)
    past.when(lambda c: c.complete_subtask(NOW)).refused(NothingAwaitedError)
    past.when(lambda c: c.receive_tool_result("call-2", 1, None, NOW))
    past.when(lambda c: c.complete_subtask(NOW)).then(FIRST_DONE).leaves(state="plan_in_execution")


def test_a_subtask_is_completed_once() -> None:
    given(PROPOSED, APPROVED, STARTED, FIRST_DONE).when(lambda c: c.complete_subtask(NOW)).refused(
        NothingAwaitedError
    )


def test_the_plan_is_completed_with_its_last_subtask() -> None:
    given(PROPOSED, APPROVED, STARTED, FIRST_DONE, SECOND_STARTED).when(
        lambda c: c.complete_subtask(NOW)
    ).then(fact(Conversation.SubtaskCompleted, plan_id="p1", subtask_id="s2"), COMPLETED).leaves(
        state="idle", plan=None
    )


def test_a_failed_subtask_fails_the_plan_and_closes_its_calls_once() -> None:
    past = given(PROPOSED, APPROVED, STARTED, ASKED)
    past.when(lambda c: c.fail_subtask("no disk", NOW)).then(
        fact(Conversation.SubtaskFailed, plan_id="p1", subtask_id="s1", reason="no disk"),
        fact(
            Conversation.ToolCallClosed, call_id="call-1", tool="write_file", reason="cancelled", detail=None
        ),
        fact(Conversation.PlanFailed, **PLAN, reason="no disk"),
    ).leaves(state="idle", plan=None)
    past.when(lambda c: c.fail_subtask("no disk", NOW)).refused(NothingAwaitedError)


def test_a_plan_can_fail_before_a_subtask_is_running() -> None:
    given(PROPOSED, APPROVED).when(lambda c: c.fail_subtask("no such agent", NOW)).then(
        fact(Conversation.PlanFailed, **PLAN, reason="no such agent")
    )


@pytest.mark.parametrize("past", [[], [PROPOSED], [PROPOSED, MODIFIED]])
def test_no_subtask_moves_without_a_plan_in_execution(past: list[Fact]) -> None:
    for decide in (
        lambda c: c.start_subtask(FIRST, NOW),
        lambda c: c.complete_subtask(NOW),
        lambda c: c.fail_subtask("why", NOW),
    ):
        given(*past).when(decide).refused(NothingAwaitedError)
