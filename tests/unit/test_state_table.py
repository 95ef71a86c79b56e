"""Every cell of the state table in docs/protocol.md does what it says: 5 messages in 6 states."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest

from api.errors import STATUS
from application.protocol import HitlDecision, PlanDecision, SwitchAgent, ToolResult, UserMessage
from domain.agent import Agent
from domain.conversation import Conversation
from domain.values import State
from tests.given import BEFORE, NOW, Fact, given, given_agent, told
from tests.unit.past import APPROVED, ASKED, ASKED_FREELY, PROPOSED, STARTED

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
MESSAGES = (UserMessage, ToolResult, HitlDecision, PlanDecision, SwitchAgent)

Decide = Callable[[Conversation, Agent], object]


@dataclass(frozen=True)
class Case:
    """One outcome of a cell: what is sent on top of what, and what comes of it."""

    send: Decide
    events: tuple[type, ...] = ()
    leaves: State | None = None
    beside: tuple[Fact, ...] = field(default=())


def said(conversation: Conversation, _: Agent) -> None:
    conversation.receive_user_message("m1", "hello", NOW)


def switched(conversation: Conversation, agent: Agent) -> object:
    conversation.refuse_switch()
    return agent.switch("coder", "", "user:grace", NOW, limit=50)


def ran(call_id: str) -> Decide:
    return lambda conversation, _: conversation.receive_tool_result(call_id, 0, None, NOW)


def decided(word: Any, call_id: str = "call-1") -> Decide:
    arguments = {"path": "b.txt"} if word == "edit" else None
    return lambda conversation, _: conversation.decide_call(call_id, word, arguments, None, NOW)


def planned(word: Any, plan_id: str = "p1") -> Decide:
    return lambda conversation, _: conversation.decide_plan(plan_id, 1, word, "why", NOW)


C = Conversation  # as often as it is named below
PASTS: Mapping[State, tuple[Fact, ...]] = {
    "idle": (),
    "awaiting_tool_results": (ASKED_FREELY,),
    "awaiting_decision": (ASKED,),
    "plan_in_review": (PROPOSED,),
    "plan_in_execution": (PROPOSED, APPROVED, STARTED),
    "archived": (Fact(Conversation.Archived),),
}
SUPERSEDED = Case(said, (C.ToolCallClosed, C.UserMessageReceived), "idle")
NO_CALL_HERE = {"404 call_not_found": Case(ran("call-9"))}
NOTHING_TO_ANSWER = {"409 nothing_awaited": Case(ran("call-9"))}
NOTHING_TO_DECIDE = {"409 nothing_awaited": Case(decided("approve", "call-9"))}
NO_PLAN_HERE = {"409 nothing_awaited": Case(planned("approve"))}

CELLS: Mapping[tuple[str, State], Mapping[str, Case]] = {
    ("user_message", "idle"): {"turn": Case(said, (C.UserMessageReceived,), "idle")},
    ("user_message", "awaiting_tool_results"): {"supersede calls, turn": SUPERSEDED},
    ("user_message", "awaiting_decision"): {"supersede calls, turn": SUPERSEDED},
    ("user_message", "plan_in_review"): {
        "supersede plan, turn": Case(said, (C.PlanSuperseded, C.UserMessageReceived), "idle")
    },
    ("user_message", "plan_in_execution"): {
        "cancel plan, turn": Case(
            said, (C.ToolCallClosed, C.PlanCancelled, C.UserMessageReceived), "idle", (ASKED_FREELY,)
        )
    },
    ("user_message", "archived"): {"409 conversation_archived": Case(said)},
    ("tool_result", "idle"): NOTHING_TO_ANSWER,
    ("tool_result", "awaiting_tool_results"): {
        "recorded": Case(ran("call-2"), (C.ToolResultReceived,), "idle"),
        **NO_CALL_HERE,
    },
    ("tool_result", "awaiting_decision"): {"409 call_not_approved": Case(ran("call-1")), **NO_CALL_HERE},
    ("tool_result", "plan_in_review"): NOTHING_TO_ANSWER,
    ("tool_result", "plan_in_execution"): {
        "recorded": Case(ran("call-2"), (C.ToolResultReceived,), "plan_in_execution", (ASKED_FREELY,)),
        "409 call_not_approved": Case(ran("call-1"), beside=(ASKED,)),
        "404 call_not_found": Case(ran("call-9"), beside=(ASKED,)),
        **NOTHING_TO_ANSWER,
    },
    ("tool_result", "archived"): {"409 conversation_archived": Case(ran("call-1"))},
    ("hitl_decision", "idle"): NOTHING_TO_DECIDE,
    ("hitl_decision", "awaiting_tool_results"): {
        "409 call_needs_no_decision": Case(decided("approve", "call-2")),
        "404 call_not_found": Case(decided("approve", "call-9")),
    },
    ("hitl_decision", "awaiting_decision"): {
        "approved": Case(decided("approve"), (C.ToolCallApproved,), "awaiting_tool_results"),
        "edited": Case(decided("edit"), (C.ToolCallEdited,), "awaiting_tool_results"),
        "rejected": Case(decided("reject"), (C.ToolCallRejected,), "idle"),
        "404 call_not_found": Case(decided("approve", "call-9")),
    },
    ("hitl_decision", "plan_in_review"): NOTHING_TO_DECIDE,
    ("hitl_decision", "plan_in_execution"): {
        "approved": Case(decided("approve"), (C.ToolCallApproved,), "plan_in_execution", (ASKED,)),
        "edited": Case(decided("edit"), (C.ToolCallEdited,), "plan_in_execution", (ASKED,)),
        "rejected": Case(decided("reject"), (C.ToolCallRejected,), "plan_in_execution", (ASKED,)),
        "409 call_needs_no_decision": Case(decided("approve", "call-2"), beside=(ASKED_FREELY,)),
        "404 call_not_found": Case(decided("approve", "call-9"), beside=(ASKED,)),
        **NOTHING_TO_DECIDE,
    },
    ("hitl_decision", "archived"): {"409 conversation_archived": Case(decided("approve"))},
    ("plan_decision", "idle"): NO_PLAN_HERE,
    ("plan_decision", "awaiting_tool_results"): NO_PLAN_HERE,
    ("plan_decision", "awaiting_decision"): NO_PLAN_HERE,
    ("plan_decision", "plan_in_review"): {
        "approved": Case(planned("approve"), (C.PlanApproved,), "plan_in_execution"),
        "modified": Case(planned("modify"), (C.PlanModificationRequested,), "idle"),
        "rejected": Case(planned("reject"), (C.PlanRejected,), "idle"),
        "404 plan_not_found": Case(planned("approve", "p9")),
    },
    ("plan_decision", "plan_in_execution"): {
        "409 plan_already_decided": Case(planned("reject")),
        "409 nothing_awaited": Case(planned("approve", "p9")),
    },
    ("plan_decision", "archived"): {"409 conversation_archived": Case(planned("approve"))},
    ("switch_agent", "idle"): {"switched": Case(switched, (Agent.Switched,), "idle")},
    ("switch_agent", "awaiting_tool_results"): {
        "switched": Case(switched, (Agent.Switched,), "awaiting_tool_results")
    },
    ("switch_agent", "awaiting_decision"): {
        "switched": Case(switched, (Agent.Switched,), "awaiting_decision")
    },
    ("switch_agent", "plan_in_review"): {"switched": Case(switched, (Agent.Switched,), "plan_in_review")},
    ("switch_agent", "plan_in_execution"): {"409 plan_in_execution": Case(switched)},
    ("switch_agent", "archived"): {"409 conversation_archived": Case(switched)},
}


def table_of_the_page() -> dict[tuple[str, str], list[str]]:
    """Read the table: for each message and state the outcomes that its cell names, in code spans."""
    text = PAGE.read_text(encoding="utf-8")
    _, marked, rest = text.partition("<!-- state-table")
    table, ended, _ = rest.partition("<!-- /state-table -->")
    assert marked, "docs/protocol.md has lost the beginning of its state table"
    assert ended, "docs/protocol.md has lost the end of its state table"
    head, _, *rows = [_cells(line) for line in table.splitlines() if line.startswith("|")]
    states = [name.strip("`") for name in head[1:]]
    assert all(len(row) == len(head) for row in rows)
    return {
        (row[0].strip("`"), state): re.findall(r"`([^`]+)`", cell)
        for row in rows
        for state, cell in zip(states, row[1:], strict=True)
    }


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


TABLE = table_of_the_page()
OUTCOMES = [(message, state, outcome) for (message, state), found in TABLE.items() for outcome in found]


def test_the_table_has_every_message_and_every_state_and_nothing_else() -> None:
    messages = [get_args(kind.model_fields["type"].annotation)[0] for kind in MESSAGES]
    assert set(TABLE) == {(message, state) for message in messages for state in get_args(State)}


def test_every_outcome_of_the_table_has_its_case_and_every_case_is_in_the_table() -> None:
    assert {cell: set(outcomes) for cell, outcomes in TABLE.items()} == {
        cell: set(cases) for cell, cases in CELLS.items()
    }


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_is_reached(state: State) -> None:
    assert given(*PASTS[state]).aggregate.state == state


@pytest.mark.parametrize(("message", "state", "outcome"), OUTCOMES)
def test_the_cell_does_what_it_says(message: str, state: State, outcome: str) -> None:
    case = CELLS[message, state][outcome]
    agent = given_agent().aggregate
    past = given(*PASTS[state], *case.beside)
    assert past.aggregate.state == state
    agent.collect_events()
    came = past.when(lambda conversation: case.send(conversation, agent))
    code = f"{STATUS[came.error.code]} {came.error.code}" if came.error else None
    events = [*came.events, *agent.collect_events()]
    if outcome[0].isdigit():
        assert (code, events, past.aggregate.state) == (outcome, [], state)
    else:
        assert (code, [told(event).type for event in events]) == (None, list(case.events))
        assert past.aggregate.state == case.leaves
        assert {event.turn_id for event in events} == {NOW.turn_id} != {BEFORE.turn_id}
