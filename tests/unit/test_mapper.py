"""Rows and events say the same, whatever a tool answers and whatever an event is called."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.agent import Agent
from domain.aggregate import By, MinuteEvent
from domain.conversation import Conversation
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.mapper import MinutesMapper, PlainJson
from infrastructure.postgres.rows import Row

BY = By("user:ada", "t1")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["_type_", "_data_"]), inner),
    max_leaves=20,
)


def row_of(new: NewEvent) -> Row:
    return Row(1, new.stream, new.version, new.type, new.conversation, new.turn, new.actor, NOW, new.data)


def there_and_back(event: MinuteEvent) -> MinuteEvent:
    mapper = MinutesMapper()
    return mapper.to_event(row_of(mapper.to_new_event(event)))


def answered(result: Any) -> MinuteEvent:
    conversation = Conversation.begin("c1", BY)
    call = {
        "model_call_id": "m",
        "tool": "t",
        "arguments": {},
        "agent": "a",
        "requires_decision": False,
        "rule": "r",
    }
    conversation.request_call("k", call, BY)
    conversation.receive_tool_result("k", result, None, BY)
    return conversation.pending_events[-1]  # type: ignore[return-value]


@given(JSON)
def test_what_a_tool_answered_comes_back_as_it_was(result: Any) -> None:
    back = there_and_back(answered(result))
    assert isinstance(back, Conversation.ToolResultReceived)
    assert json.dumps(back.result) == json.dumps(result)


def test_a_result_that_looks_like_the_librarys_own_objects_can_be_read() -> None:
    back = there_and_back(answered({"_type_": "datetime_iso", "_data_": "never"}))
    assert isinstance(back, Conversation.ToolResultReceived)
    assert back.result == {"_type_": "datetime_iso", "_data_": "never"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_in_json_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        MinutesMapper().to_new_event(answered([number]))


def test_half_a_surrogate_pair_is_stored_as_valid_utf_8() -> None:
    data = PlainJson().encode({"text": "\ud83d"})
    assert json.loads(data.decode("utf-8")) == {"text": "\ud83d"}


def test_a_row_repeats_nothing_that_is_a_column() -> None:
    new = MinutesMapper().to_new_event(answered([1, "é"]))
    assert new.data == '{"call_id":"k","tool":"t","result":[1,"é"],"error":null}'.encode()
    assert (new.stream, new.version, new.conversation) == ("conversation-c1", 3, "c1")
    assert (new.type, new.turn, new.actor) == ("conversation.tool_result_received", "t1", "user:ada")


def test_a_conversation_id_with_dashes_is_kept_whole() -> None:
    [started] = Conversation.begin("a-b-c", BY).pending_events
    assert MinutesMapper().to_new_event(started).conversation == "a-b-c"  # type: ignore[arg-type]


def test_an_event_comes_back_equal_but_for_the_time_the_log_recorded_it() -> None:
    event = answered({"a": [1.5, None]})
    back = there_and_back(event)
    assert back.timestamp == NOW
    assert vars(back) == vars(event) | {"timestamp": NOW}


def test_the_first_event_of_a_stream_makes_its_aggregate_again() -> None:
    [started] = Agent.assign("c1", "coder", BY).pending_events
    back: Any = there_and_back(started)  # type: ignore[arg-type]
    agent = back.mutate(None)
    assert isinstance(agent, Agent)
    assert (agent.id, agent.name, agent.version) == ("agent-c1", "coder", 1)


def test_a_field_named_with_a_python_keyword_is_stored_under_its_own_name() -> None:
    agent = Agent.assign("c1", "coder", BY)
    agent.switch("ask", "a question", "user:ada", BY)
    mapper = MinutesMapper()
    new = mapper.to_new_event(agent.pending_events[-1])  # type: ignore[arg-type]
    assert json.loads(new.data) == {
        "from": "coder",
        "to": "ask",
        "reason": "a question",
        "requested_by": "user:ada",
        "class_version": 2,
    }
    assert "class_version" not in mapper.to_logged(row_of(new)).data
    assert mapper.to_logged(row_of(new)).data["from"] == "coder"


def test_what_is_shown_of_an_event_carries_its_row() -> None:
    mapper = MinutesMapper()
    shown = mapper.to_logged(row_of(mapper.to_new_event(answered(0))))
    assert shown.data == {"call_id": "k", "tool": "t", "result": 0, "error": None}
    assert (shown.position, shown.stream, shown.version, shown.recorded_at) == (1, "conversation-c1", 3, NOW)
    assert (shown.conversation_id, shown.turn_id, shown.actor) == ("c1", "t1", "user:ada")
