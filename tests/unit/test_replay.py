"""Whatever was decided: replayed it is the same, twice is once, and every call has one result."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from inspect import getmembers, isfunction, signature
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from application.listening import MOST_CALLS
from domain.agent import Agent
from domain.aggregate import By, MinuteEvent, SignedAggregate
from domain.conversation import Conversation
from domain.errors import MinutebookError, SwitchLimitReachedError
from domain.values import REMEMBERED
from tests.given import SIGNATURE, recorded
from tests.unit.commands import COMMANDS, TASKS, Command, do, histories, live

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

NOW = By("user:grace", "turn-now")
RESULTS = (Conversation.ToolResultReceived, Conversation.ToolCallRejected, Conversation.ToolCallClosed)


def through_json(event: MinuteEvent) -> Any:
    """Return the event as a log that keeps JSON gives it back."""
    values = dict(vars(event))
    own = {name: value for name, value in values.items() if name not in SIGNATURE}
    copy = object.__new__(type(event))
    vars(copy).update({**values, **json.loads(json.dumps(own))})
    return copy


def replayed(events: Sequence[Any]) -> Any:
    aggregate = None
    for event in events:
        aggregate = through_json(event).mutate(aggregate)
    return aggregate


def from_snapshot(aggregate: Any) -> Any:
    """Return the aggregate as a snapshot that keeps JSON gives it back."""
    state = json.loads(json.dumps(aggregate.kept_state()))
    return type(aggregate).from_kept_state(aggregate.id, aggregate.version, state, datetime.now(UTC))


def assert_same(one: Any, other: Any) -> None:
    assert one.kept_state() == other.kept_state()
    assert json.dumps(one.kept_state()) == json.dumps(other.kept_state()), "the order is a part of the state"
    assert (one.id, one.version) == (other.id, other.version)


# --- the conversation ----------------------------------------------------------------------------


def test_every_decision_is_among_the_random_ones() -> None:
    decisions = {
        name
        for name, method in getmembers(Conversation, isfunction)
        if "by" in signature(method).parameters and not name.startswith("_")
    } - {SignedAggregate.record.__name__}
    assert decisions == set(COMMANDS)


@settings(max_examples=200, deadline=None)
@given(histories())
def test_any_history_replays_from_its_stored_events_to_the_same_state(history: list[Command]) -> None:
    conversation = live(history)
    copy = replayed(recorded(conversation))
    assert_same(copy, conversation)
    assert copy.state == conversation.state


@settings(max_examples=200, deadline=None)
@given(histories(), st.integers(0, 60))
def test_a_snapshot_at_any_point_continues_as_if_it_had_not_been_taken(
    history: list[Command], cut: int
) -> None:
    conversation = live(history[:cut])
    copy = from_snapshot(conversation)
    assert_same(copy, conversation)
    for number, command in enumerate(history[cut:]):
        by = By("user:ada", f"later-{number}")
        one, other = do(conversation, command, by), do(copy, command, by)
        assert type(one) is type(other)
        assert str(one) == str(other)
    assert_same(copy, conversation)


@settings(max_examples=200, deadline=None)
@given(histories())
def test_every_call_gets_one_result_and_only_open_calls_have_none(history: list[Command]) -> None:
    conversation = live(history)
    asked = Counter(
        e.call_id for e in recorded(conversation) if isinstance(e, Conversation.ToolCallRequested)
    )
    answered = Counter(e.call_id for e in recorded(conversation) if isinstance(e, RESULTS))
    assert {*asked.values(), *answered.values()} <= {1}
    assert set(asked) - set(answered) == set(conversation.calls)
    conversation.reopen(NOW)
    conversation.receive_user_message("m-last", "never mind", NOW)
    assert not conversation.calls


@settings(max_examples=300, deadline=None)
@given(histories(), st.one_of(*COMMANDS.values()))
def test_asked_twice_is_recorded_once(history: list[Command], command: Command) -> None:
    conversation = live(history)
    do(conversation, command, NOW)
    once = recorded(conversation)
    do(conversation, command, NOW)
    assert recorded(conversation) == once


@settings(max_examples=300, deadline=None)
@given(
    histories(), st.one_of(COMMANDS["receive_tool_result"], COMMANDS["decide_call"], COMMANDS["decide_plan"])
)
def test_a_repetition_in_another_turn_names_the_turn_that_recorded_it(
    history: list[Command], command: Command
) -> None:
    conversation = live(history)
    version = conversation.version
    first = do(conversation, command, By("user:ada", "turn-first"))
    again = do(conversation, command, NOW)
    if conversation.version > version:
        assert again == "turn-first"
    else:
        assert (type(again), str(again)) == (type(first), str(first))


@settings(max_examples=200, deadline=None)
@given(histories(), st.one_of(*COMMANDS.values()))
def test_a_refusal_records_nothing_and_changes_nothing(history: list[Command], command: Command) -> None:
    conversation = live(history)
    before, version = conversation.kept_state(), conversation.version
    if isinstance(do(conversation, command, NOW), MinutebookError):
        assert (conversation.kept_state(), conversation.version) == (before, version)


@settings(max_examples=200, deadline=None)
@given(histories())
def test_an_archived_conversation_waits_for_nothing(history: list[Command]) -> None:
    conversation = live(history)
    conversation.archive(NOW)
    conversation.reopen(NOW)
    assert conversation.state == "idle"


def test_the_state_stays_small_however_long_the_history_is() -> None:
    conversation = live([])
    sizes = []
    for number in range(4 * REMEMBERED):
        _one_busy_turn(conversation, number)
        sizes.append(len(json.dumps(conversation.kept_state())))
    assert len(conversation.settled_calls) == len(conversation.decided_plans) == REMEMBERED
    assert max(sizes) <= 1.02 * sizes[REMEMBERED]
    assert max(sizes) < 64 * 1024


def test_only_the_oldest_is_forgotten() -> None:
    conversation = live([])
    for number in range(REMEMBERED + 1):
        _one_busy_turn(conversation, number)
    assert "call-0" not in conversation.settled_calls
    assert conversation.receive_tool_result("call-1", "x" * 1000, None, NOW) == "turn-1"


def test_every_call_of_the_largest_answer_is_remembered() -> None:
    conversation = live([])
    calls = [f"call-{number}" for number in range(MOST_CALLS)]
    about = {"model_call_id": "call_0", "tool": "read_file", "agent": "coder", "rule": "reading"}
    for call_id in calls:
        conversation.request_call(call_id, {**about, "arguments": {}, "requires_decision": False}, NOW)
    for call_id in calls:
        conversation.receive_tool_result(call_id, call_id, None, NOW)
    later = By("user:grace", "turn-later")
    again = [conversation.receive_tool_result(call_id, call_id, None, later) for call_id in calls]
    assert again == [NOW.turn_id] * MOST_CALLS


def _one_busy_turn(conversation: Conversation, number: int) -> None:
    by = By("user:ada", f"turn-{number}")
    call = {"model_call_id": "call_0", "tool": "write_file", "agent": "coder", "rule": "writing"}
    arguments = {"text": "y" * 1000}
    conversation.receive_user_message(f"m{number}", "z" * 1000, by)
    conversation.request_call(
        f"call-{number}", {**call, "arguments": arguments, "requires_decision": True}, by
    )
    conversation.decide_call(f"call-{number}", "edit", arguments, "fine", by)
    conversation.receive_tool_result(f"call-{number}", "x" * 1000, None, by)
    conversation.propose_plan(f"p{number}", "goal", [task.to_json() for task in TASKS], "architect", by)
    conversation.decide_plan(f"p{number}", 1, "reject", "no", by)


# --- the agent -----------------------------------------------------------------------------------

SWITCHES = st.lists(
    st.tuples(
        st.sampled_from(["ask", "coder", "debug"]), st.sampled_from(["user:ada", "agent:ask", "plan:p1"])
    )
)


def switched(agents: list[tuple[str, str]], limit: int) -> Agent:
    agent = Agent.assign("c1", "ask", By("user:ada", "turn-0"))
    for number, (to, asker) in enumerate(agents):
        try:
            agent.switch(to, "why", asker, By(asker, f"turn-{number}"), None if asker == "plan:p1" else limit)
        except SwitchLimitReachedError:
            assert agent.switches == limit
        agent.note_model_call("demo", 1, 1, 1, "stop", NOW)
    return agent


@given(SWITCHES, st.integers(0, 3))
def test_any_switches_replay_and_survive_a_snapshot(agents: list[tuple[str, str]], limit: int) -> None:
    agent = switched(agents, limit)
    assert agent.switches <= limit
    assert_same(replayed(recorded(agent)), agent)
    assert_same(from_snapshot(agent), agent)


@given(SWITCHES, st.sampled_from(["ask", "coder"]))
def test_a_switch_asked_twice_is_recorded_once(agents: list[tuple[str, str]], to: str) -> None:
    agent = switched(agents, 100)
    agent.switch(to, "why", "user:ada", By("user:ada", "turn-first"), 100)
    once = recorded(agent)
    assert agent.switch(to, "why", "user:ada", NOW, 100) == agent.switched_in
    assert recorded(agent) == once
