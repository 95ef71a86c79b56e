"""The auditor's questions, asked of real conversations: the answers are what the log says, read plainly."""

import asyncio
import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

import infrastructure.models.providers  # noqa: F401  (takes a second to import: before the loop runs)
from tests.command_line import minutebook
from tests.integration.test_audit_past import a_long_story
from tests.integration.test_real_conversations import replayed
from tests.projecting import wait_until
from tests.replaying import ASK, LogRow, decision_on, read_log
from tests.serving import ServerProcess, serving, serving_reads

AT_LEAST = 6
DECISION = {"tool_call_approved": "approve", "tool_call_edited": "edit", "tool_call_rejected": "reject"}

pytestmark = [
    pytest.mark.no_cover,  # it doubles the time, and shows no line that others do not
    pytest.mark.timeout(240),
    pytest.mark.may_block("clients, server and model share one heap, and its collection takes a while"),
]


def asked(folder: Path, url: str, *words: str) -> list[dict[str, Any]]:
    done = minutebook(folder, "audit", *words, "--json", database_url=url)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def lives(log: list[LogRow]) -> dict[str, list[LogRow]]:
    """Return the events about each call, in order."""
    found: dict[str, list[LogRow]] = defaultdict(list)
    for row in log:
        if "call_id" in row.data:
            found[row.data["call_id"]].append(row)
    return found


def is_tried_again(conversation: dict[str, Any]) -> bool:
    """Whether the person of the replay rejects a call in it, and its tool is called again."""
    calls = [call["name"] for one in conversation["messages"] for call in one.get("tool_calls") or ()]
    return any(
        ASK.fullmatch(tool)
        and decision_on(conversation["id"], number)["decision"] == "reject"
        and tool in calls[number + 1 :]
        for number, tool in enumerate(calls)
    )


def kind_of(row: LogRow) -> str:
    return row.type.partition(".")[2]


async def test_the_questions_have_true_answers_on_recorded_conversations(
    database_url: str, airline_conversations: list[dict[str, Any]], tmp_path: Path
) -> None:
    tried_again = [one for one in airline_conversations if is_tried_again(one)][:AT_LEAST]
    others = [one for one in airline_conversations if one not in tried_again][:AT_LEAST]
    await replayed(database_url, [*tried_again, *others], rough=False, view_tokens=24_000)
    log = await asyncio.to_thread(read_log, database_url)

    def ask(*words: str) -> list[dict[str, Any]]:
        return asked(tmp_path, database_url, *words)

    approvals = await asyncio.to_thread(ask, "approvals", "--limit", "1000")
    _judge_approvals(approvals, log)
    _judge_retried(await asyncio.to_thread(ask, "retried"), log)
    await asyncio.to_thread(_judge_agent, ask, log)
    edited = next(one for one in approvals if one["decision"] == "edit")
    await asyncio.to_thread(_judge_show, ask, edited, log)
    async with serving(database_url) as server:
        await _judge_the_same_over_http(server.client.http, approvals)


def _judge_approvals(approvals: list[dict[str, Any]], log: list[LogRow]) -> None:
    decided = [row for row in log if kind_of(row) in DECISION]
    assert [one["decided"]["position"] for one in approvals] == [row.position for row in decided]
    assert {one["decision"] for one in approvals} == {"approve", "edit", "reject"}
    calls = lives(log)
    for one, row in zip(approvals, decided, strict=True):
        request, *later = calls[row.data["call_id"]]
        assert (one["conversation_id"], one["id"]) == (row.conversation, row.data["call_id"])
        assert one["decision"] == DECISION[kind_of(row)]
        assert (one["decided"]["by"], one["tool"]) == (row.actor, row.data["tool"])
        assert one["asked"]["arguments"] == request.data["arguments"]
        assert one["asked"]["by"] == request.actor
        if one["decision"] == "edit":
            assert one["decided"]["arguments_after"] == row.data["arguments_after"]
            assert one["decided"]["arguments_after"] != one["asked"]["arguments"]
        assert one["ended"]["position"] == later[-1].position
        if one["decision"] != "reject":
            assert one["ended"]["result"] == later[-1].data["result"]


async def test_decisions_on_plans_are_told_with_what_was_proposed_and_what_came_of_it(
    database_url: str,
) -> None:
    async with serving_reads(database_url) as server:
        end = [end async for end in a_long_story(server.client, "c1")][-1]
        query = {"limit": 200, "min_position": end["last_position"]}
        told = (await server.client.http.get("/v1/audit/approvals", params=query)).json()["approvals"]
    log = await asyncio.to_thread(read_log, database_url)
    plans = [one for one in told if one["kind"] == "plan"]
    proposed = [row for row in log if kind_of(row) == "plan_proposed"]
    decided = [row for row in log if kind_of(row) in ("plan_modification_requested", "plan_approved")]
    (completed,) = [row.position for row in log if kind_of(row) == "plan_completed"]
    assert [one["decision"] for one in plans] == ["modify", "approve"]
    assert [one["decided"]["feedback"] for one in plans] == ["a map", None]
    for one, asked_for, row in zip(plans, proposed, decided, strict=True):
        assert one["id"] == f"{asked_for.data['plan_id']}/{asked_for.data['plan_version']}"
        assert (one["asked"]["position"], one["asked"]["by"]) == (asked_for.position, asked_for.actor)
        for name in ("goal", "subtasks"):
            assert one["asked"][name] == asked_for.data[name]
        assert (one["decided"]["position"], one["decided"]["by"]) == (row.position, row.actor)
        assert (one["tool"], one["conversation_id"]) == (None, "c1")
    assert [one["ended"] and one["ended"]["position"] for one in plans] == [None, completed]
    assert [one["outcome"] for one in plans] == [None, "completed"]


def _judge_retried(retried: list[dict[str, Any]], log: list[LogRow]) -> None:
    expected = []
    for row in log:
        if kind_of(row) == "tool_call_rejected":
            later = [
                other.position
                for other in log
                if kind_of(other) == "tool_call_requested" and other.position > row.position
                and (other.conversation, other.data["tool"]) == (row.conversation, row.data["tool"])
            ]  # fmt: skip
            expected += [(row.position, later[0])] if later else []
    found = [(one["rejected"]["decided"]["position"], one["again"]["asked"]["position"]) for one in retried]
    assert found == expected != []


def _judge_agent(ask: Any, log: list[LogRow]) -> None:
    every = ask("agent", "airline")
    assert [one["position"] for one in every] == [row.position for row in log if row.actor == "agent:airline"]
    since, until = every[len(every) // 4]["recorded_at"], every[len(every) // 2]["recorded_at"]
    some = ask("agent", "airline", "--from", since, "--to", until)
    times = [datetime.fromisoformat(one["recorded_at"]) for one in every]
    low, high = datetime.fromisoformat(since), datetime.fromisoformat(until)
    assert some == [one for one, at in zip(every, times, strict=True) if low <= at < high] != []


def _judge_show(ask: Any, edited: dict[str, Any], log: list[LogRow]) -> None:
    """A result leads back to its request, the decision, and what the person had said."""
    (shown,) = ask("show", str(edited["ended"]["position"]))
    led = {one["type"].partition(".")[2]: one["position"] for one in shown["led_to_by"]}
    before = [row for row in log if row.conversation == edited["conversation_id"]]
    said = [
        row.position
        for row in before
        if kind_of(row) == "user_message_received" and row.position < edited["ended"]["position"]
    ]
    assert led == {
        "tool_call_requested": edited["asked"]["position"],
        "tool_call_edited": edited["decided"]["position"],
        "user_message_received": said[-1],
    }
    assert (shown["turn"]["state"], shown["turn"]["kind"]) == ("committed", "tool_result")
    turn = [row.position for row in before if row.turn == shown["event"]["turn_id"]]
    assert [one["position"] for one in shown["turn_events"]] == turn
    assert (shown["turn"]["first_position"], shown["turn"]["last_position"]) == (turn[0], turn[-1])


async def _judge_the_same_over_http(http: httpx.AsyncClient, approvals: list[dict[str, Any]]) -> None:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"after": 0, "limit": 7}
    while query["after"] is not None:
        answer = (await http.get("/v1/audit/approvals", params=query)).json()
        found, query["after"] = found + answer["approvals"], answer["next"]
    assert found == approvals
    for name in ("decision", "tool"):
        query = {name: approvals[0][name], "limit": 200}
        some = (await http.get("/v1/audit/approvals", params=query)).json()["approvals"]
        assert some == [one for one in approvals if one[name] == approvals[0][name]]
    nobody = (await http.get("/v1/audit/approvals", params={"actor": "user:nobody"})).json()
    assert (nobody["approvals"], nobody["next"]) == ([], None)
    one = approvals[0]["decided"]["position"]
    assert (await http.get(f"/v1/audit/events/{one}")).json()["event"]["position"] == one
    missing = await http.get("/v1/audit/events/99999999")
    assert (missing.status_code, missing.json()["code"]) == (404, "event_not_found")
    wrong = await http.get("/v1/audit/approvals", params={"decision": "maybe"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_filter")


async def test_what_was_running_when_a_server_died_and_what_failed_is_told(
    database_url: str, server_folder: Path
) -> None:
    server = ServerProcess(server_folder, database_url=database_url, lease_s=1, demo_delay_s=0.2)
    body = {"turn_id": "t-long", "conversation_id": "c1",
            "message": {"type": "user_message", "content": "long 500"}}  # fmt: skip
    try:
        await asyncio.to_thread(server.start)
        async with httpx.AsyncClient(base_url=server.url, verify=False) as http:
            failing = {"turn_id": "t-fails", "message": {"type": "user_message", "content": "rate limit"}}
            assert "turn.failed" in (await http.post("/v1/messages/stream", json=failing)).text
            async with http.stream("POST", "/v1/messages/stream", json=body) as response:
                await anext(response.aiter_lines())
                middle = await asyncio.to_thread(_database_time, database_url)
                await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(_until_abandoned, database_url)
        async with httpx.AsyncClient(base_url=server.url, verify=False) as http:
            await _judge_turns(http, middle)
        words = ("abandoned", "running", "failed")
        told = [await asyncio.to_thread(asked, server_folder, database_url, word) for word in words]
        assert [[turn["turn_id"] for turn in turns] for turns in told] == [["t-long"], [], ["t-fails"]]
    finally:
        await asyncio.to_thread(server.kill)


async def _judge_turns(http: httpx.AsyncClient, middle: datetime) -> None:
    async def turns(**query: Any) -> list[dict[str, Any]]:
        answer = await http.get("/v1/audit/turns", params=query)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["turns"])

    (died,) = await turns(state="abandoned")
    assert (died["turn_id"], died["code"], died["by"]) == ("t-long", "turn_abandoned", "user:local")
    assert await turns(running_at=middle.isoformat()) == [died]
    assert await turns(running_at=(middle - timedelta(hours=1)).isoformat()) == []
    assert await turns(state="abandoned", before=died["accepted_at"]) == []
    assert await turns(running_at=middle.isoformat(), before=died["accepted_at"]) == []
    assert await turns(running_at=middle.isoformat(), before=middle.isoformat()) == [died]
    (failed,) = await turns(state="failed")
    assert (failed["turn_id"], failed["code"]) == ("t-fails", "model_rate_limited")
    neither = await http.get("/v1/audit/turns")
    assert (neither.status_code, neither.json()["code"]) == (422, "invalid_filter")


def _database_time(url: str) -> datetime:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row
    at: datetime = row[0]
    return at.astimezone(UTC)


def _until_abandoned(url: str) -> None:
    def is_so() -> bool:
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT state FROM turns WHERE id = 't-long'").fetchone()
        return row is not None and row[0] == "abandoned"

    wait_until(is_so, 60)
