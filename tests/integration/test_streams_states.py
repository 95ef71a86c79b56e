"""The state table over HTTP: what each message does in each state, by the table of the documentation."""

from typing import Any

import pytest

from tests.integration.streams import (
    ask,
    calls_of,
    data_of,
    end_of,
    log_of,
    refused,
    types,
)
from tests.serving import Client, SseFrame, serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

ADA = {"conversation_id": "ada"}


async def amend(client: Client, archived: bool) -> None:
    """Archive the conversation, or reopen it."""
    response = await client.http.patch("/v1/conversations/ada", json={"archived": archived})
    assert response.status_code == 200, response.text


class Known:
    """The ids that messages of a test name."""

    def __init__(self, frames: list[SseFrame]) -> None:
        self.calls = calls_of(frames) or ["call_x"]
        plans = data_of(frames, "conversation.plan_proposed")
        self.plan_id = plans[0]["plan_id"] if plans else "plan_x"

    def message(self, kind: str, decision: str = "approve", number: int = 0) -> dict[str, Any]:
        """Return a message of this kind about what is known."""
        call_id = self.calls[number]
        messages: dict[str, dict[str, Any]] = {
            "user_message": {"type": kind, "content": "help"},
            "tool_result": {"type": kind, "call_id": call_id, "result": "ok"},
            "switch_agent": {"type": kind, "agent": "ask"},
            "hitl_decision": {"type": kind, "call_id": call_id, "decision": decision},
            "plan_decision": {"type": kind, "plan_id": self.plan_id, "plan_version": 1, "decision": decision},
        }
        return messages[kind]


async def reach(client: Client, state: str) -> Known:
    """Bring the conversation into this state."""
    words = {
        "idle": ("help", "ask"),
        "awaiting_tool_results": ("both", "ask"),
        "awaiting_decision": ("both", "coder"),
        "plan_in_review": ("plan a house", "architect"),
        "plan_in_execution": ("plan a house", "architect"),
        "archived": ("both", "coder"),
    }[state]
    frames = await ask(client, *words, **ADA)
    known = Known(frames)
    if state == "plan_in_execution":
        frames = await client.send(known.message("plan_decision"), **ADA)
        known.calls = calls_of(frames)
    if state == "archived":
        await amend(client, archived=True)
        return known
    assert end_of(frames)["state"] == state
    return known


REFUSALS = [
    ("idle", "tool_result", "nothing_awaited"),
    ("idle", "hitl_decision", "nothing_awaited"),
    ("idle", "plan_decision", "nothing_awaited"),
    ("awaiting_tool_results", "hitl_decision", "call_needs_no_decision"),
    ("awaiting_tool_results", "plan_decision", "nothing_awaited"),
    ("awaiting_decision", "tool_result", "call_not_approved"),
    ("awaiting_decision", "plan_decision", "nothing_awaited"),
    ("plan_in_review", "tool_result", "nothing_awaited"),
    ("plan_in_review", "hitl_decision", "nothing_awaited"),
    ("plan_in_execution", "switch_agent", "plan_in_execution"),
    ("plan_in_execution", "hitl_decision", "call_needs_no_decision"),
    *(
        ("archived", kind, "conversation_archived")
        for kind in ("user_message", "tool_result", "switch_agent", "hitl_decision", "plan_decision")
    ),
]


@pytest.mark.parametrize("state", sorted({state for state, _, _ in REFUSALS}))
async def test_what_a_state_does_not_wait_for_is_refused_and_changes_nothing(
    database_url: str, state: str
) -> None:
    async with serving_reads(database_url) as server:
        known = await reach(server.client, state)
        before = await log_of(database_url)
        for kind, code in ((kind, code) for there, kind, code in REFUSALS if there == state):
            problem = await refused(server.client, known.message(kind), code, **ADA)
            assert problem["status"] == 409
        assert await log_of(database_url) == before


@pytest.mark.parametrize("state", ["awaiting_tool_results", "awaiting_decision", "plan_in_execution"])
async def test_an_unknown_call_is_404_where_calls_are_open(database_url: str, state: str) -> None:
    async with serving_reads(database_url) as server:
        known = await reach(server.client, state)
        known.calls = ["call_unknown"]
        for kind in ("tool_result", "hitl_decision"):
            await refused(server.client, known.message(kind), "call_not_found", **ADA)


async def test_an_unknown_plan_or_version_is_404_in_review_and_a_decided_one_409_in_execution(
    database_url: str,
) -> None:
    async with serving_reads(database_url) as server:
        known = await reach(server.client, "plan_in_review")
        message = known.message("plan_decision")
        for other in ({"plan_id": "other"}, {"plan_version": 2}):
            await refused(server.client, {**message, **other}, "plan_not_found", **ADA)
        await server.client.send(message, **ADA)
        different = {**message, "decision": "reject"}
        await refused(server.client, different, "plan_already_decided", **ADA)
        await refused(server.client, {**message, "plan_id": "other"}, "nothing_awaited", **ADA)


@pytest.mark.parametrize(
    ("state", "first"),
    [
        ("idle", ["user_message_received"]),
        ("awaiting_tool_results", ["tool_call_closed", "tool_call_closed", "user_message_received"]),
        ("awaiting_decision", ["tool_call_closed", "tool_call_closed", "user_message_received"]),
        ("plan_in_review", ["plan_superseded", "user_message_received"]),
        ("plan_in_execution", ["tool_call_closed", "plan_cancelled", "user_message_received", "switched"]),
    ],
)
async def test_a_user_message_takes_the_place_of_what_was_open(
    database_url: str, state: str, first: list[str]
) -> None:
    async with serving_reads(database_url) as server:
        known = await reach(server.client, state)
        frames = await server.client.send(known.message("user_message"), **ADA)
    assert types(frames) == [*first, "model_called", "assistant_message_sent"]
    assert end_of(frames)["state"] == "idle"
    for reason in ("conversation.tool_call_closed", "conversation.plan_cancelled"):
        assert {said["reason"] for said in data_of(frames, reason)} <= {"superseded"}


@pytest.mark.parametrize("state", ["idle", "awaiting_tool_results", "awaiting_decision", "plan_in_review"])
async def test_a_switch_leaves_what_is_open_as_it_is(database_url: str, state: str) -> None:
    async with serving_reads(database_url) as server:
        await reach(server.client, state)
        frames = await server.client.send({"type": "switch_agent", "agent": "debug"}, **ADA)
    assert types(frames) == ["switched"]
    assert end_of(frames)["state"] == state


async def test_a_conversation_that_is_reopened_goes_on(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        known = await reach(server.client, "archived")
        await amend(server.client, archived=False)
        await refused(server.client, known.message("tool_result"), "call_closed", **ADA)
        assert types(await server.client.say("help", **ADA))[0] == "user_message_received"
