"""The five messages are read strictly, and what they say is told apart to the last bit."""

import json
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from application.errors import InvalidJsonError, InvalidMessageError, MessageTooLargeError
from application.protocol import (
    MAX_DEPTH,
    AnyMessage,
    parsed_json,
    parsed_request,
    payload_hash,
    payload_of,
    storable,
    stored_message,
)
from application.use_cases import PATIENT, USE_CASES

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

LIMIT = 1024 * 1024
RESULT = {"type": "tool_result", "call_id": "c"}
GOOD: list[dict[str, Any]] = [
    {"type": "user_message", "content": "hi"},
    {"type": "user_message", "content": " ", "agent": "ask"},
    {**RESULT, "result": None},
    {**RESULT, "error": "x"},
    {"type": "switch_agent", "agent": "ask", "reason": "so"},
    {"type": "hitl_decision", "call_id": "c", "decision": "edit", "arguments": {}},
    {"type": "hitl_decision", "call_id": "c", "decision": "reject", "feedback": "no"},
    {"type": "plan_decision", "plan_id": "p", "plan_version": 1, "decision": "modify", "feedback": "less"},
]
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
SMALL = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    SMALL | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8
)


def nested(levels: int) -> Any:
    """Return lists in lists, so many of them."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def test_every_message_has_its_use_case_under_its_own_name() -> None:
    messages = get_args(get_args(AnyMessage)[0])
    words = {get_args(message.model_fields["type"].annotation)[0]: message for message in messages}
    assert words.keys() <= USE_CASES.keys()
    for word, message in words.items():
        assert USE_CASES[word].__name__ == word
        assert message.__name__ == word.title().replace("_", "")
    assert USE_CASES.keys() >= PATIENT


@pytest.mark.parametrize("message", GOOD, ids=str)
def test_a_message_is_kept_as_it_was_sent_and_read_back_the_same(message: dict[str, Any]) -> None:
    asked = parsed_request({"message": message}, LIMIT)
    payload = payload_of(asked.message)
    assert payload == message
    assert stored_message(json.loads(json.dumps(payload))) == asked.message


def test_a_message_that_was_accepted_is_not_looked_through_again() -> None:
    result = {**RESULT, "result": ["what only a look at each value would find: \x00"]}
    assert payload_of(stored_message(result)) == result


@pytest.mark.parametrize("message", GOOD, ids=str)
def test_an_optional_field_that_is_null_says_what_its_absence_says(message: dict[str, Any]) -> None:
    asked = parsed_request({"message": message}, LIMIT).message
    absent = type(asked).model_fields.keys() - message.keys() - {"result"}
    spelled = parsed_request({"message": {**dict.fromkeys(absent), **message}}, LIMIT).message
    assert (spelled, payload_of(spelled)) == (asked, payload_of(asked))
    assert payload_hash(payload_of(spelled)) == payload_hash(payload_of(asked))


@given(JSON)
def test_any_json_value_is_a_result(value: Any) -> None:
    body = json.dumps({"message": {**RESULT, "result": value}}).encode()
    asked = parsed_request(parsed_json(body), LIMIT)
    assert repr(payload_of(asked.message)["result"]) == repr(value)


@given(JSON, JSON)
def test_two_payloads_have_the_same_digest_only_when_they_say_the_same(one: Any, other: Any) -> None:
    spelled = [json.dumps(value, sort_keys=True) for value in (one, other)]
    digests = [payload_hash({**RESULT, "result": value}) for value in (one, other)]
    assert (digests[0] == digests[1]) == (spelled[0] == spelled[1])


def test_digests_tell_alike_values_apart_and_pass_over_the_order_of_keys() -> None:
    alike: list[Any] = [0, 0.0, -0.0, False, None, "", "0", [], {}, [0], [[]], {"": 0}, "\u00e9", "e\u0301"]
    digests = [payload_hash({"result": value}) for value in alike]
    assert len(set(digests)) == len(alike)
    assert payload_hash({"a": 1, "b": 2}) == payload_hash({"b": 2, "a": 1})


def test_as_many_levels_as_allowed_pass_and_one_more_does_not() -> None:
    assert storable(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="100 levels"):
        storable(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "value", ["\x00", {"\x00": 1}, ["a\x00"], "\ud800", {"\udfff": 1}, float("inf"), [float("nan")]]
)
def test_what_no_log_can_keep_is_refused(value: Any) -> None:
    with pytest.raises(InvalidMessageError):
        parsed_request({"message": {**RESULT, "result": value}}, LIMIT)


@given(st.binary(max_size=60))
def test_bytes_are_json_or_refused_in_one_way(body: bytes) -> None:
    with suppress(InvalidJsonError):
        parsed_json(body)


KEYS = st.sampled_from(["message", "type", "content", "x"]) | st.text(max_size=3)


@given(st.recursive(SMALL | st.text(max_size=5), lambda inner: st.dictionaries(KEYS, inner), max_leaves=5))
@settings(max_examples=50)
def test_any_value_that_is_no_request_is_refused_with_a_sentence_that_can_be_sent(value: Any) -> None:
    with pytest.raises((InvalidMessageError, MessageTooLargeError)) as refusal:
        parsed_request({"message": value, "other": value}, LIMIT)
    assert len(str(refusal.value).encode()) < 1000


def test_a_reason_that_quotes_what_was_sent_is_cut_short() -> None:
    with pytest.raises(InvalidMessageError) as refusal:
        parsed_request({"message": {"type": "user_message", "content": "hi", "x" * 100_000: 1}}, LIMIT)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("field", ["content", "agent"])
def test_a_size_is_counted_in_bytes(field: str) -> None:
    message = {"type": "user_message", "content": "x", field: "é" * 10}
    parsed_request({"message": message}, 20)
    with pytest.raises(MessageTooLargeError):
        parsed_request({"message": message}, 19)
