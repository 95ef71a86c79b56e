"""Folds are right: what a read model holds is what one would write down reading the log line by line."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings

from infrastructure.postgres.rows import Row as LogRow
from infrastructure.projections.agent_activity import ON, OVER, AgentActivity
from infrastructure.projections.conversation_list import CONVERSATIONS, ConversationList
from infrastructure.projections.pending_approvals import APPROVALS, PendingApprovals
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.requests import Requests
from infrastructure.projections.transcript import Transcript
from infrastructure.projections.usage import USAGE, UsageByDay
from infrastructure.projections.values import from_json
from tests.folding import (
    CARRIED_OUT,
    SENT_BACK,
    aggregates,
    folded,
    logged,
    logs,
    numbered,
    of_type,
    one,
    recorded,
)
from tests.projecting import happened

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
        ("request_call", ("call-2", {
            "model_call_id": "n", "tool": "t", "agent": "coder", "rule": "r",
            "requires_decision": False, "arguments": {}})),
        ("receive_tool_result", ("call-2", "done", None)),
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
    test_stints_follow_one_another_without_a_gap,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
def test_of_the_recorded_conversations(check: Any, airline_conversations: list[dict[str, Any]]) -> None:
    check.hypothesis.inner_test(recorded(airline_conversations))
