"""What is stored stays readable: every event ever written, in every shape it ever had.

`frozen_events.jsonl` holds one line for each version of each event. It only grows: a new event adds
a line, and a changed one raises its `class_version`, gets an `upcast_vN_vM`, and adds a line.
"""

import json
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from eventsourcing.utils import get_topic, resolve_topic

from domain.agent import Agent
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation
from infrastructure.postgres.mapper import MinutesMapper, PlainJson, field_names, stored_fields
from infrastructure.postgres.rows import Row

DUMP = Path(__file__).with_name("frozen_events.jsonl")
LINES: list[dict[str, Any]] = [json.loads(line) for line in DUMP.read_text("utf-8").splitlines()]
EVENT_CLASSES: list[type[MinuteEvent]] = [
    member
    for aggregate in (Conversation, Agent)
    for member in vars(aggregate).values()
    if isinstance(member, type) and issubclass(member, MinuteEvent) and member is not aggregate.Event
]


def newest_version(event_class: type[MinuteEvent]) -> int:
    return getattr(event_class, "class_version", 1)


CURRENT = [line for line in LINES if line["class_version"] == newest_version(resolve_topic(line["type"]))]

by_name = pytest.mark.parametrize("event_class", EVENT_CLASSES, ids=get_topic)
by_line = pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['type']} v{line['class_version']}")
by_current_line = pytest.mark.parametrize("line", CURRENT, ids=lambda line: str(line["type"]))


def stored(line: dict[str, Any]) -> Row:
    version = line["class_version"]
    data = line["data"] | ({"class_version": version} if version > 1 else {})
    stream = line["type"].partition(".")[0] + "-c1"
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    return Row(7, stream, 3, line["type"], "c1", "t1", "user:ada", now, PlainJson().encode(data))


def test_the_dump_knows_the_events_of_both_aggregates() -> None:
    assert {get_topic(event_class) for event_class in EVENT_CLASSES} == {line["type"] for line in LINES}


@by_name
def test_every_version_of_an_event_is_in_the_dump_once(event_class: type[MinuteEvent]) -> None:
    versions = defaultdict(list)
    for line in LINES:
        versions[line["type"]].append(line["class_version"])
    assert versions[get_topic(event_class)] == list(range(1, newest_version(event_class) + 1))


@by_current_line
def test_the_fields_of_an_event_change_only_with_its_version(line: dict[str, Any]) -> None:
    assert list(line["data"]) == list(stored_fields(resolve_topic(line["type"])))


@by_line
def test_every_event_ever_written_still_loads(line: dict[str, Any]) -> None:
    event = MinutesMapper().to_event(stored(line))
    assert get_topic(type(event)) == line["type"]
    assert (event.actor, event.turn_id, event.originator_version) == ("user:ada", "t1", 3)
    assert all(hasattr(event, name) for name in field_names(type(event)))


@by_current_line
def test_an_event_of_today_is_stored_as_the_dump_says(line: dict[str, Any]) -> None:
    mapper = MinutesMapper()
    assert mapper.to_new_event(mapper.to_event(stored(line))).data == stored(line).data


def test_an_old_switch_is_shown_with_what_it_did_not_say_then() -> None:
    [old] = [line for line in LINES if line["type"] == "agent.switched" and line["class_version"] == 1]
    assert MinutesMapper().to_logged(stored(old)).data == old["data"] | {"requested_by": "unknown"}
    switched = MinutesMapper().to_event(stored(old))
    assert isinstance(switched, Agent.Switched)
    assert (switched.from_, switched.requested_by) == ("orchestrator", "unknown")
