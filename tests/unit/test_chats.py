"""Chats of other times and makers: what they say is taken, and how much of it is read at once is bounded."""

import json
from io import BytesIO
from typing import Any

import pytest

from application.chats import read_chats
from application.importing import Importing, NotImportableError


def said_again(*messages: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    conversation, _ = Importing("ada", "coder").said_again({"id": "c", "messages": list(messages)})
    return [(type(event).__name__, vars(event)) for event in conversation.pending_events]


def test_a_refusal_is_what_the_assistant_said() -> None:
    whole = {"role": "assistant", "content": None, "refusal": "I will not."}
    in_parts = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]}
    said = said_again({"role": "user", "content": "Do it."}, whole, in_parts)
    assert [data.get("content") for _, data in said[1:]] == ["Do it.", "I will not.", "I will not."]


def test_a_function_of_the_time_before_tools_is_a_call_with_its_result() -> None:
    said = said_again(
        {"role": "user", "content": "Read both."},
        *(
            message
            for name in ("a", "b", "a", "a")
            for message in (
                {"role": "assistant", "content": None, "function_call": {"name": name, "arguments": "{}"}},
                {"role": "function", "name": name, "content": f"this is {name}"},
            )
        ),
    )
    calls = [data for kind, data in said if kind == "ToolCallRequested"]
    results = [data for kind, data in said if kind == "ToolResultReceived"]
    assert [(call["tool"], call["model_call_id"]) for call in calls] == [
        ("a", "function_call_1"),
        ("b", "function_call_2"),
        ("a", "function_call_3"),
        ("a", "function_call_4"),
    ]
    assert [(one["call_id"], one["result"]) for one in results] == [
        (call["call_id"], f"this is {call['tool']}") for call in calls
    ]


def test_a_line_that_is_too_long_is_reported_and_the_others_are_read() -> None:
    short = json.dumps({"messages": []})
    lines = [short, json.dumps({"messages": ["x" * 3_000_000]}), short]
    for text in (lines, lines[1:], [*lines[:2], *[""] * 9, short]):
        read = dict(read_chats(BytesIO("\n".join(text).encode()), 100))
        bad = text.index(lines[1]) + 1
        assert [number for number, value in read.items() if isinstance(value, NotImportableError)] == [bad]
        assert read.keys() == {number for number, line in enumerate(text, 1) if line}
        assert "more than 100 bytes" in str(read[bad])


@pytest.mark.parametrize("indent", [None, 1])
def test_a_document_that_is_too_long_is_refused(indent: int | None) -> None:
    text = json.dumps([{"messages": ["x"]}] * 20, indent=indent).encode()
    assert len(list(read_chats(BytesIO(text), len(text)))) == 20
    with pytest.raises(NotImportableError, match="bytes"):
        read_chats(BytesIO(text), len(text) - 1)
