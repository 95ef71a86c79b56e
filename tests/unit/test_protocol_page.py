"""docs/protocol.md says what the code does: its events, its codes and its examples."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from application.frames import COMMITTED, DELTA, FAILED, STARTED, STATUS
from application.protocol import parsed_request
from application.replay import error_kinds
from domain.agent import Agent
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation
from tests.given import SIGNATURE

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLES = [
    json.loads(line)
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    for line in ([block] if block.startswith('{"turn_id"') else block.splitlines())
]


def rows(section: str) -> dict[str, list[str]]:
    """Return the cells of each row of the table in this section, by the code span of the first."""
    inside = PAGE.partition(f"<!-- {section}")[2].partition(f"<!-- /{section} -->")[0]
    lines = [line.strip("|").split("|") for line in inside.splitlines() if line.startswith("| `")]
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def event_types() -> dict[str, type[Any]]:
    found = [
        kind for owner in (Conversation, Agent) for kind in vars(owner).values() if isinstance(kind, type)
    ]
    return {kind.TOPIC: kind for kind in found if issubclass(kind, MinuteEvent) and hasattr(kind, "TOPIC")}


def own_fields(kind: type[Any]) -> set[str]:
    return {name.rstrip("_") for name in kind.__dataclass_fields__} - SIGNATURE


def test_the_page_lists_every_event_with_all_its_fields() -> None:
    on_the_page = {topic: set(re.findall(r"`(\w+)`", cells[0])) for topic, cells in rows("events").items()}
    assert on_the_page == {topic: own_fields(kind) for topic, kind in event_types().items()}


def test_the_page_lists_every_error_and_whether_it_can_be_retried() -> None:
    on_the_page = {code: cells[-1] for code, cells in rows("errors").items()}
    # The command line has errors of its own, which no client ever sees.
    seen = [kind for kind in error_kinds() if kind.__module__.partition(".")[0] in {"domain", "application"}]
    in_the_code = {kind.code: "yes" if kind.retryable else "no" for kind in seen}
    # These two are the framework's, for addresses that are none of ours.
    assert on_the_page == {**in_the_code, "not_found": "no", "method_not_allowed": "no"}


@pytest.mark.parametrize("message", [example for example in EXAMPLES if "type" in example])
def test_an_example_message_is_taken(message: dict[str, Any]) -> None:
    assert parsed_request({"message": message}, limit=1000).message.type == message["type"]


def test_there_is_an_example_of_each_message_and_of_each_frame() -> None:
    messages = {example["type"] for example in EXAMPLES if "type" in example}
    assert messages == {"user_message", "tool_result", "switch_agent", "hitl_decision", "plan_decision"}
    frames = {example["event"] for example in EXAMPLES if "event" in example}
    assert frames == {STARTED, DELTA, STATUS, COMMITTED, FAILED, Conversation.ToolCallRequested.TOPIC}


def test_the_example_of_an_event_has_the_fields_of_that_event() -> None:
    (example,) = [one["data"] for one in EXAMPLES if one.get("event") == Conversation.ToolCallRequested.TOPIC]
    assert set(example["data"]) == own_fields(Conversation.ToolCallRequested)


def test_the_example_of_a_request_is_taken() -> None:
    (request,) = [example for example in EXAMPLES if "message" in example]
    assert parsed_request(request, limit=1000).turn_id == request["turn_id"]
