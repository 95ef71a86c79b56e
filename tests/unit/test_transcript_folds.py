"""The transcript and the requests hold the whole life of every call and plan, as the log tells it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings

from application.ports import LoggedEvent
from infrastructure.postgres.rows import Row as LogRow
from infrastructure.projections.requests import REQUESTS, TOOL_EVENTS, Requests
from infrastructure.projections.transcript import ENTRIES, Transcript
from infrastructure.projections.transcript_queries import detail_of
from tests.folding import (
    CARRIED_OUT,
    SENT_BACK,
    folded,
    logged,
    logs,
    of_type,
    one,
    recorded,
)
from tests.unit.commands import Command

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not


def life(events: Sequence[LoggedEvent], conversation: str, call_id: str) -> list[LoggedEvent]:
    return [e for e in events if e.conversation_id == conversation and e.data.get("call_id") == call_id]


@settings(deadline=None)
@given(logs)
def test_the_transcript_holds_the_whole_life_of_every_call(log: list[LogRow]) -> None:
    events = logged(log)
    entries = [row for row in folded(Transcript(), events)[ENTRIES.name] if row["kind"] == "call"]
    assert len(entries) == len(of_type(events, "tool_call_requested"))
    for entry in entries:
        detail = detail_of(entry)
        first, *later = life(events, entry["conversation"], detail["call_id"])
        assert entry["position"] == first.position
        assert entry["changed_position"] == [first, *later][-1].position
        assert {name: detail[name] for name in first.data if name != "agent"} == {
            name: value for name, value in first.data.items() if name != "agent"
        }
        _assert_life(detail, later)


@settings(deadline=None)
@given(logs)
@example(one(*SENT_BACK))
@example(one(*CARRIED_OUT))
def test_a_request_knows_where_all_that_became_of_it_stands(log: list[LogRow]) -> None:
    events = logged(log)
    rows = folded(Requests(), events)
    calls = [row for row in rows[REQUESTS.name] if row["kind"] == "call"]
    assert len(calls) == len(of_type(events, "tool_call_requested"))
    for row in calls:
        first, *later = life(events, row["conversation"], row["id"])
        decided = of_type(later, "tool_call_approved", "tool_call_edited", "tool_call_rejected")
        ended = of_type(later, "tool_call_closed", "tool_result_received", "tool_call_rejected")
        assert row["requested"] == first.position
        assert row["decided"] == (decided[0].position if decided else None)
        assert row["ended"] == (ended[0].position if ended else None)
    tools = {row["position"]: row["tool"] for row in rows[TOOL_EVENTS.name]}
    assert tools == {event.position: event.data["tool"] for event in events if "tool" in event.data}
    plans = {(row["conversation"], row["id"]) for row in rows[REQUESTS.name] if row["kind"] == "plan"}
    assert plans == {
        (event.conversation_id, f"{event.data['plan_id']}/{event.data['plan_version']}")
        for event in of_type(events, "plan_proposed")
    }


def _assert_life(detail: dict[str, Any], later: list[LoggedEvent]) -> None:
    decided = of_type(later, "tool_call_approved", "tool_call_edited", "tool_call_rejected")
    ended = of_type(later, "tool_call_closed", "tool_result_received")
    assert len(decided) + len(ended) == len(later)
    for said, found in ((decided, detail["decision"]), (ended, detail["outcome"])):
        assert (found is None) == (not said)
        if said:
            (event,) = said
            kept = {k: v for k, v in event.data.items() if k not in ("call_id", "tool")}
            assert {name: found[name] for name in kept} == kept
            assert (found["by"], found["position"]) == (event.actor, event.position)


@settings(deadline=None)
@given(logs)
def test_the_transcript_is_in_the_order_in_which_things_appeared(log: list[LogRow]) -> None:
    events = logged(log)
    entries = sorted(folded(Transcript(), events)[ENTRIES.name], key=lambda row: int(row["position"]))
    said = of_type(events, "user_message_received", "assistant_message_sent")
    assert [(row["position"], row["text"]) for row in entries if row["kind"] == "message"] == [
        (event.position, event.data["content"]) for event in said
    ]
    switches = of_type(events, "switched")
    assert [row["position"] for row in entries if row["kind"] == "switch"] == [e.position for e in switches]
    newest_proposals = {
        (e.conversation_id, e.data["plan_id"], e.data["plan_version"]): e.position
        for e in of_type(events, "plan_proposed")
    }
    assert {row["position"] for row in entries if row["kind"] == "plan"} == set(newest_proposals.values())


def test_the_transcript_tells_what_became_of_each_plan_and_each_step() -> None:
    def told(*more: Command) -> dict[str, tuple[str, Any, Any]]:
        rows = folded(Transcript(), logged(one(*CARRIED_OUT, *more)))[ENTRIES.name]
        details = {row["entry"]: detail_of(row) for row in rows if row["kind"] in ("plan", "subtask")}
        return {
            name: (
                detail["status"],
                (detail.get("decision") or {}).get("decision"),
                (detail["outcome"] or {}).get("reason"),
            )
            for name, detail in details.items()
        }

    before = {
        "plan:p1/1": ("sent_back", "modify", None),
        "plan:p1/2": ("in_execution", "approve", None),
        "subtask:p1/s1": ("completed", None, None),
        "subtask:p1/s2": ("running", None, None),
    }
    assert told() == before
    assert told(("complete_subtask", ())) == {
        **before,
        "plan:p1/2": ("completed", "approve", None),
        "subtask:p1/s2": ("completed", None, None),
    }
    assert told(("fail_subtask", ("too hard",))) == {
        **before,
        "plan:p1/2": ("failed", "approve", "too hard"),
        "subtask:p1/s2": ("failed", None, "too hard"),
    }
    assert told(("cancel_turn", ()))["plan:p1/2"] == ("cancelled", "approve", "cancelled")


def test_the_recorded_conversations_have_the_whole_life_of_every_call(
    airline_conversations: list[dict[str, Any]],
) -> None:
    test_the_transcript_holds_the_whole_life_of_every_call.hypothesis.inner_test(  # type: ignore[attr-defined]
        recorded(airline_conversations)
    )
