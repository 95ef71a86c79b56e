"""What is copied from the stored JSON is what decoding and encoding would have given."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infrastructure.postgres.mapper import PlainJson
from infrastructure.postgres.rows import Row as LogRow
from infrastructure.projections.read_model import Rows
from infrastructure.projections.reading import StoredEvent
from infrastructure.projections.splicing import approval_of, call_of, message_of, request_of, result_of
from infrastructure.projections.transcript import Transcript
from infrastructure.projections.values import from_json, to_json
from tests.folding import BEGAN, CARRIED_OUT, MAPPER, folded, logged, logs, one

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

REQUESTED = "conversation.tool_call_requested"
APPROVED = "conversation.tool_call_approved"
RESULT = "conversation.tool_result_received"
DECOYS = ['","error":null}', '","agent":"x","requires_decision":true,"rule":"r"}', "\\u00e9", "\ud800", "é\0"]

texts = st.text() | st.sampled_from(DECOYS)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("error"), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts | st.sampled_from(["agent", "rule", "error"]), values, max_size=3)


def stored(type_: str, data: dict[str, Any]) -> Any:
    row = LogRow(7, "conversation-c", 2, type_, "c", "t", "user:ada", BEGAN, PlainJson().encode(data))
    return as_stored(row), MAPPER.to_logged(row)


@pytest.mark.parametrize("text", ["", "}", '{"a":', "[1,", "nul"])
def test_what_is_no_json_is_no_end_of_anything(text: str) -> None:
    """A `StopIteration` would let whoever maps over rows leave out this one and all behind it."""
    with pytest.raises(ValueError):  # noqa: PT011 (the decoder has words of its own for some)
        list(map(from_json, ["{}", text]))


@given(values)
def test_what_was_written_is_read(value: Any) -> None:
    assert from_json(to_json(value)) == value


def as_stored(row: LogRow) -> Any:
    return StoredEvent(
        row.position, row.stream, row.version, row.type, row.conversation, row.turn, row.actor,
        row.recorded_at, row.data,
    )  # fmt: skip


def is_escaped(event: Any) -> bool:
    """Whether all of it is stored in escapes, as what has half a surrogate pair in it is."""
    return "\\ud" in event.text


@settings(deadline=None)
@given(texts, values, st.none() | texts)
@example("call-1", {"error": None}, None)
@example("call-1", '{"a": "b"}', None)
@example("call-1", DECOYS[0], None)
def test_a_result_is_copied_as_it_would_be_written(call_id: str, result: Any, error: str | None) -> None:
    event, decoded = stored(RESULT, {"call_id": call_id, "tool": "t", "result": result, "error": error})
    assert call_of(event) == call_of(decoded) == call_id
    for either in (event, decoded):
        assert json.loads(f"{{{result_of(either)}}}") == {"result": result, "error": error}
    assert is_escaped(event) or result_of(event) == result_of(decoded)


@settings(deadline=None)
@given(texts, objects, st.none() | texts)
@example("call-1", {"a": 1, "feedback": None}, None)
@example("call-1", {"a": ',"feedback":null}'}, "fine")
def test_an_approval_is_copied_as_it_would_be_written(
    call_id: str, arguments: dict[str, Any], feedback: str | None
) -> None:
    said = {"call_id": call_id, "tool": "t", "arguments": arguments, "feedback": feedback}
    event, decoded = stored(APPROVED, said)
    assert call_of(event) == call_of(decoded) == call_id
    for either in (event, decoded):
        assert json.loads(f"{{{approval_of(either)}}}") == {"arguments": arguments, "feedback": feedback}
    assert is_escaped(event) or approval_of(event) == approval_of(decoded)


@settings(deadline=None)
@given(texts, objects, texts, st.booleans(), st.none() | texts)
@example("call-1", {"agent": "a", "requires_decision": False, "rule": None}, "coder", True, None)
@example("call-1", {"a": DECOYS[1]}, "coder", False, "rule")
def test_a_request_is_copied_as_it_would_be_written(
    call_id: str, arguments: dict[str, Any], agent: str, requires_decision: bool, rule: str | None
) -> None:
    said = {
        "call_id": call_id, "model_call_id": "m", "tool": "t", "arguments": arguments, "agent": agent,
        "requires_decision": requires_decision, "rule": rule,
    }  # fmt: skip
    event, decoded = stored(REQUESTED, said)
    for either in (event, decoded):
        *begun, detail = request_of(either)
        assert begun == [call_id, agent, requires_decision]
        assert json.loads(detail) == {k: v for k, v in said.items() if k != "agent"}
    assert is_escaped(event) or request_of(event) == request_of(decoded)


@settings(deadline=None)
@given(texts, texts, texts, st.booleans(), texts)
@example("m1", "coder", 'she said "no"\n\\', True, "stop")
@example("m1", "coder", '"}', False, '","agent":"x')
def test_a_message_is_copied_as_it_would_be_written(
    message_id: str, agent: str, content: str, truncated: bool, finish_reason: str
) -> None:
    said: dict[str, Any] = {"message_id": message_id, "content": content}
    event, decoded = stored("conversation.user_message_received", said)
    assert is_escaped(event) or message_of(event, "user") == message_of(decoded, "user")
    assert message_of(event, "user")[:2] == (None, content)
    rest = {"truncated": truncated, "finish_reason": finish_reason}
    event, decoded = stored(
        "conversation.assistant_message_sent",
        {"message_id": message_id, "agent": agent, "content": content, **rest},
    )
    assert is_escaped(event) or (
        message_of(event, "assistant", *rest) == message_of(decoded, "assistant", *rest)
    )
    for either in (event, decoded):
        *begun, detail = message_of(either, "assistant", *rest)
        assert begun == [agent, content]
        assert json.loads(detail) == {"role": "assistant", "message_id": message_id, **rest}


@settings(deadline=None)
@given(logs)
@example(one(*CARRIED_OUT))
def test_a_transcript_is_the_same_from_stored_and_from_decoded_events(log: list[LogRow]) -> None:
    assert folded(Transcript(), map(as_stored, log)) == folded(Transcript(), logged(log))


ASKED: dict[str, Any] = {
    "call_id": "c", "model_call_id": "m", "tool": "t", "arguments": {"a": [1]}, "agent": "coder",
    "requires_decision": False, "rule": None,
}  # fmt: skip
LET_RUN: dict[str, Any] = {"call_id": "c", "tool": "t", "arguments": {"a": [1]}, "feedback": None}
ANSWERED: dict[str, Any] = {"call_id": "c", "tool": "t", "result": {"a": 'b"\\'}, "error": None}


@pytest.mark.parametrize(("type_", "said"), [(REQUESTED, ASKED), (APPROVED, LET_RUN), (RESULT, ANSWERED)])
def test_plain_requests_approvals_and_results_are_not_decoded(type_: str, said: dict[str, Any]) -> None:
    event, _ = stored(type_, said)
    Transcript().fold(Rows(), event)
    assert event._data is None
