"""What a model sees is well formed whatever happened, and costs what its budget allows."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from application.language_model import CallMade, ModelMessage, ResultGiven, Said
from application.model_view import LEFT_OUT, Aside, _result, _tokens, model_messages, recent_events
from domain.aggregate import By
from domain.conversation import Conversation
from tests.given import fact, recorded
from tests.given import given as given_that
from tests.unit.commands import histories, live
from tests.unit.past import PROPOSED, asked

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

BY = By("user:ada", "turn-1")
ASIDES = st.lists(
    st.builds(
        Aside,
        after=st.integers(0, 40),
        call_id=st.uuids().map(str),
        model_call_id=st.sampled_from(["", "call_0", "call_1"]),
        tool=st.just("switch_agent"),
        arguments=st.just("{}"),
        said=st.just("You are now coder."),
    ),
    max_size=4,
).map(lambda asides: sorted(asides, key=lambda aside: aside.after))


def check_well_formed(messages: Sequence[ModelMessage]) -> None:
    """Hold the messages against what every provider insists on."""
    assert isinstance(messages[0], Said)
    assert messages[0].role == "user"
    open_calls: list[str] = []
    seen: set[str] = set()
    for message in messages:
        if isinstance(message, CallMade):
            assert message.model_call_id
            assert message.model_call_id not in seen, "an id stands for two calls"
            seen.add(message.model_call_id)
            open_calls.append(message.model_call_id)
        elif isinstance(message, ResultGiven):
            assert message.model_call_id in open_calls, "a result without its call, or a second one"
            open_calls.remove(message.model_call_id)
        else:
            assert not open_calls, "something is said before every call has its result"
            assert message.content
    assert not open_calls, "a call without its result"


def check_no_result_is_split(messages: Sequence[ModelMessage]) -> None:
    """Within one answer all calls come before all results."""
    kinds = ["c" if isinstance(m, CallMade) else "r" if isinstance(m, ResultGiven) else " " for m in messages]
    for group in "".join(kinds).split():
        assert group.count("c") == group.count("r")


class Past:
    """Events, newest first, that count how many of them were asked for."""

    def __init__(self, events: Sequence[Any]) -> None:
        self._events = events
        self.pulled = 0

    async def newest_first(self) -> AsyncIterator[Any]:
        for event in reversed(self._events):
            self.pulled += 1
            yield event


def said(role: str, content: str, number: int = 0) -> Any:
    """A message of a person or of an agent."""
    if role == "user":
        return fact(Conversation.UserMessageReceived, message_id=f"m{number}", content=content)
    return fact(
        Conversation.AssistantMessageSent,
        message_id=f"a{number}",
        agent="ask",
        content=content,
        truncated=False,
        finish_reason="stop",
    )


def answered(call_id: str, result: Any = "ok") -> Any:
    """The client answered a call."""
    return fact(Conversation.ToolResultReceived, call_id=call_id, tool="read_file", result=result, error=None)


def events_of(*facts: Any) -> list[Any]:
    """The events of a conversation in which this happened."""
    return list(given_that(*facts).aggregate.pending_events)


@given(histories(), ASIDES, st.data())
@settings(max_examples=300, deadline=None)
def test_any_history_cut_anywhere_is_well_formed(history: Any, asides: Any, data: Any) -> None:
    events = list[Any](live(history).pending_events)
    first = data.draw(st.integers(0, len(events)))
    last = data.draw(st.integers(first, len(events)))
    for view in (events, events[first:], events[first:last]):
        messages = model_messages(view, asides)
        check_well_formed(messages)
        check_no_result_is_split(messages)


@given(histories(), st.integers(0, 400))
@settings(max_examples=200, deadline=None)
async def test_any_budget_gives_the_newest_events_and_reads_no_further(history: Any, budget: int) -> None:
    events = list[Any](live(history).pending_events)
    past = Past(events)
    taken = await recent_events(past.newest_first(), budget)
    assert taken == events[len(events) - len(taken) :]
    check_well_formed(model_messages(taken))
    before_the_last = events[len(events) - past.pulled + 1 :]
    assert sum(map(_tokens, before_the_last)) <= budget or _misses_a_call(before_the_last)


def _misses_a_call(events: Sequence[Any]) -> bool:
    called = {event.call_id for event in events if isinstance(event, Conversation.ToolCallRequested)}
    return any(about[0] not in called for event in events if (about := _result(event)))


@given(histories(), st.integers(0, 400))
@settings(max_examples=200, deadline=None)
async def test_the_newest_exchange_is_whole_where_it_fits(history: Any, budget: int) -> None:
    events = list[Any](live(history).pending_events)
    begins = [n for n, event in enumerate(events) if isinstance(event, Conversation.UserMessageReceived)]
    newest = events[begins[-1] if begins else 0 :]
    taken = await recent_events(Past(events).newest_first(), budget)
    if sum(map(_tokens, newest)) <= budget:
        assert taken[len(taken) - len(newest) :] == newest
        assert isinstance(taken[0], Conversation.UserMessageReceived | Conversation.Started)
    else:
        assert taken


async def test_a_conversation_of_10000_messages_costs_what_one_of_50_does() -> None:
    pulled = []
    for number in (50, 10_000):
        facts = [said("user" if n % 2 == 0 else "agent", f"message {n:05} " * 20, n) for n in range(number)]
        past = Past(events_of(*facts))
        taken = await recent_events(past.newest_first(), 1_000)
        pulled.append((past.pulled, len(taken), len(model_messages(taken))))
    assert pulled[0] == pulled[1]
    assert pulled[0][0] < 50


async def test_an_exchange_larger_than_the_budget_is_cut_and_says_so() -> None:
    facts = [said("user", "look at all of it"), *(asked(f"call-{n}") for n in range(50))]
    facts += [answered(f"call-{n}", "x" * 100) for n in range(50)]
    taken = await recent_events(Past(events_of(*facts)).newest_first(), 300)
    messages = model_messages(taken)
    check_well_formed(messages)
    assert messages[0] == Said("user", LEFT_OUT)


def test_results_follow_their_calls_under_the_ids_of_the_model() -> None:
    events = events_of(said("user", "hi"), asked("call-1"), answered("call-1", {"a": 0}), said("agent", "so"))
    assert model_messages(events) == [
        Said("user", "hi"),
        CallMade("call_0", "write_file", '{"path": "a.txt", "content": 0}'),
        ResultGiven("call_0", "write_file", '{"a": 0}'),
        Said("assistant", "so"),
    ]


def test_an_id_that_a_model_used_before_goes_by_ours_and_each_result_by_its_own_call() -> None:
    events = events_of(
        *(said("user", "hi"), asked("call-1"), answered("call-1", "first")),
        *(said("user", "ho"), asked("call-2"), answered("call-2", "second")),
    )
    results = [message for message in model_messages(events) if isinstance(message, ResultGiven)]
    assert [(one.model_call_id, one.content) for one in results] == [
        ("call_0", "first"),
        ("call-2", "second"),
    ]


def test_an_aside_stands_where_it_was_said() -> None:
    events = events_of(said("user", "hi"), said("agent", "over to coder"), said("agent", "I am coder", 1))
    aside = Aside(events[2].originator_version, "ours", "call_0", "switch_agent", "{}", "You are now coder.")
    assert model_messages(events, [aside])[1:] == [
        Said("assistant", "over to coder"),
        CallMade("call_0", "switch_agent", "{}"),
        ResultGiven("call_0", "switch_agent", "You are now coder."),
        Said("assistant", "I am coder"),
    ]


def test_a_call_without_a_result_still_gets_one() -> None:
    messages = model_messages(events_of(said("user", "hi"), asked("call-1")))
    assert messages[-1] == ResultGiven("call_0", "write_file", "There is no result yet.")


def test_a_plan_its_decision_and_its_subtasks_are_told_as_what_they_are() -> None:
    rejected = fact(Conversation.PlanRejected, plan_id="p1", plan_version=1, feedback="too long")
    messages = model_messages(events_of(said("user", "plan it"), PROPOSED, rejected))
    texts = [message.content for message in messages if isinstance(message, Said)]
    assert texts[1].startswith("I propose this plan: a file")
    assert texts[2] == "The plan was rejected. too long"


def test_words_with_braces_are_left_as_they_are() -> None:
    words = "{content} {0} {} {{x}} %s"
    assert model_messages(events_of(said("user", words))) == [Said("user", words)]


def test_half_a_surrogate_pair_that_is_stored_does_not_reach_the_model() -> None:
    conversation = given_that(asked("call-1")).aggregate
    conversation.close_call("call-1", "forbidden", BY, "The agent ask has no tool a\ud800b.")
    last = model_messages(recorded(conversation), [])[-1]
    assert isinstance(last, ResultGiven)
    assert last.content.encode().decode().endswith("no tool a\ufffdb.")
