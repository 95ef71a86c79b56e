"""Folds are right: what a read model holds is what one would write down reading the log line by line."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings

from application.ports import LoggedEvent
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.rows import Row as LogRow
from infrastructure.projections.agent_activity import ON, OVER, AgentActivity
from infrastructure.projections.conversation_list import CONVERSATIONS, ConversationList
from infrastructure.projections.pending_approvals import APPROVALS, PendingApprovals
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.requests import REQUESTS, TOOL_EVENTS, Requests
from infrastructure.projections.transcript import ENTRIES, Transcript
from infrastructure.projections.transcript_queries import detail_of
from infrastructure.projections.usage import USAGE, UsageByDay
from infrastructure.projections.values import from_json
from tests.benchmarks.big_log import events_of
from tests.folding import (
    CARRIED_OUT,
    MAPPER,
    SENT_BACK,
    aggregates,
    folded,
    logged,
    logs,
    numbered,
    of_type,
    one,
)
from tests.projecting import happened, woven
from tests.unit.commands import Command

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

MODELS: list[ReadModel] = [
    ConversationList(), Transcript(), PendingApprovals(), AgentActivity(), UsageByDay(), Requests()
]  # fmt: skip


@settings(deadline=None)
@given(logs)
@example(one(*SENT_BACK))
@example(one(*CARRIED_OUT))
def test_the_list_says_of_each_conversation_what_its_aggregate_says(log: list[LogRow]) -> None:
    rows = {row["conversation"]: row for row in folded(ConversationList(), logged(log))[CONVERSATIONS.name]}
    conversations = aggregates(log)
    assert rows.keys() == conversations.keys()
    for name, conversation in conversations.items():
        assert rows[name]["state"] == conversation.state
        calls = {call_id: call.undecided for call_id, call in conversation.calls.items()}
        assert list(from_json(rows[name]["open_calls"]).items()) == list(calls.items())
        plan = conversation.plan
        assert rows[name]["plan_status"] == (plan.status if plan else None)
        assert (rows[name]["plan_id"], rows[name]["plan_version"]) == (
            (plan.plan_id, plan.version) if plan else (None, None)
        )


@settings(deadline=None)
@given(logs)
def test_the_list_counts_truly(log: list[LogRow]) -> None:
    events = logged(log)
    for row in folded(ConversationList(), events)[CONVERSATIONS.name]:
        mine = [event for event in events if event.conversation_id == row["conversation"]]
        counted = {
            "events": len(mine),
            "person_messages": len(of_type(mine, "user_message_received")),
            "agent_messages": len(of_type(mine, "assistant_message_sent")),
            "calls": len(of_type(mine, "tool_call_requested")),
            "last_position": mine[-1].position,
            "started_at": mine[0].recorded_at,
            "last_activity_at": mine[-1].recorded_at,
            "owner": "ada",
        }
        assert {name: row[name] for name in counted} == counted


@settings(deadline=None)
@given(logs)
@example(one(*SENT_BACK))
@example(one(*CARRIED_OUT))
def test_what_waits_for_a_person_is_what_the_aggregates_wait_for(log: list[LogRow]) -> None:
    rows = folded(PendingApprovals(), logged(log))[APPROVALS.name]
    expected = set()
    for name, conversation in aggregates(log).items():
        expected |= {(name, call_id) for call_id, call in conversation.calls.items() if call.undecided}
        if plan := conversation.plan_in("review"):
            expected.add((name, plan.key))
    assert {(row["conversation"], row["id"]) for row in rows} == expected
    assert {row["owner"] for row in rows} <= {"ada"}


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


@settings(deadline=None)
@given(logs)
def test_each_model_call_is_counted_once(log: list[LogRow]) -> None:
    expected: Counter[tuple[str, ...]] = Counter()
    for event in of_type(logged(log), "model_called"):
        key = (event.conversation_id, str(event.recorded_at.date()), event.data["agent"], event.data["model"])
        for name in ("input_tokens", "output_tokens", "duration_ms"):
            expected[(*key, name)] += event.data[name]
        expected[(*key, "calls")] += 1
    found: Counter[tuple[str, ...]] = Counter()
    for row in folded(UsageByDay(), logged(log))[USAGE.name]:
        assert row["owner"] == "ada"
        for name in ("input_tokens", "output_tokens", "duration_ms", "calls"):
            found[(*(row[part] for part in USAGE.key), name)] += row[name]
    assert found == expected


@settings(deadline=None)
@given(logs)
def test_stints_follow_one_another_without_a_gap(log: list[LogRow]) -> None:
    events = logged(log)
    rows = folded(AgentActivity(), events)
    for now in rows[ON.name]:
        mine = [event for event in events if event.conversation_id == now["conversation"]]
        over = [row for row in rows[OVER.name] if row["conversation"] == now["conversation"]]
        stints = [*sorted(over, key=lambda row: int(row["position"])), now]
        changes = of_type(mine, "assigned", "switched")
        assert [one["agent"] for one in stints] == [e.data.get("to") or e.data["agent"] for e in changes]
        assert [one["from_agent"] for one in stints] == [e.data.get("from") for e in changes]
        assert [one["since"] for one in stints] == [e.recorded_at for e in changes]
        assert [one["until"] for one in stints[:-1]] == [e.recorded_at for e in changes[1:]]
        assert sum(one["model_calls"] for one in stints) == len(of_type(mine, "model_called"))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_text_that_postgresql_cannot_hold_is_held_as_far_as_it_can(model: ReadModel) -> None:
    bad = "half \ud83d and \x00 nothing"
    call = {"model_call_id": "m", "tool": "write_file", "agent": "coder", "rule": "r"}
    history = [
        ("rename", (bad,)),
        ("receive_user_message", ("m1", bad)),
        ("request_call", ("call-1", {**call, "requires_decision": True, "arguments": {"a": bad}})),
    ]
    for rows in folded(model, logged(numbered(happened("c1", history)))).values():
        for row in rows:
            for value in row.values():
                assert not isinstance(value, str) or "\x00" not in value
                assert not isinstance(value, str) or value.encode()


def test_a_title_is_the_first_message_shortened_until_somebody_names_the_conversation() -> None:
    def title(*history: Any) -> str:
        (row,) = folded(ConversationList(), logged(numbered(happened("c1", history))))[CONVERSATIONS.name]
        return str(row["title"])

    long = ("receive_user_message", ("m1", "word " * 40))
    later = ("receive_user_message", ("m2", "something else"))
    assert title(long, later) == "word " * 15 + "word…"
    assert title(long, ("rename", ("Ours",)), later) == "Ours"
    assert title(("rename", ("Ours",)), long) == "Ours"


def test_every_row_says_whose_it_is_and_every_column_is_there() -> None:
    history = [
        ("receive_user_message", ("m1", "hello")),
        ("request_call", ("call-1", {
            "model_call_id": "m", "tool": "t", "agent": "coder", "rule": "r",
            "requires_decision": True, "arguments": {}})),
        ("cancel_turn", ()), ("cancel_turn", ()), ("rename", ("x",)), ("rename", ("y",)),
    ]  # fmt: skip
    events = logged(numbered(happened("c1", history)))
    for model in MODELS:
        for table in model.tables:
            rows = folded(model, events)[table.name]
            assert rows, table.name
            for row in rows:
                assert row.keys() == table.columns.keys()
                assert row.get("owner", "ada") == "ada"


CHECKS = [
    test_the_list_says_of_each_conversation_what_its_aggregate_says,
    test_what_waits_for_a_person_is_what_the_aggregates_wait_for,
    test_the_transcript_holds_the_whole_life_of_every_call,
    test_stints_follow_one_another_without_a_gap,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
def test_of_the_recorded_conversations(check: Any, airline_conversations: list[dict[str, Any]]) -> None:
    def stored(number: int, messages: list[dict[str, Any]]) -> list[NewEvent]:
        return [
            replace(MAPPER.to_new_event(event), conversation=f"c{number}")
            for event in events_of(messages)
        ]  # fmt: skip

    recorded = [stored(number, one["messages"]) for number, one in enumerate(airline_conversations)]
    check.hypothesis.inner_test(as_of(numbered(woven(recorded)), "ada"))


def as_of(log: list[LogRow], person: str) -> list[LogRow]:
    return [replace(row, actor=f"user:{person}") if row.actor == "user" else row for row in log]
