"""The audit's doors: HTTP and the command line answer the same, and say what is wrong with a question."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import minutebook
from tests.reading import happen, says
from tests.serving import Serving, serving_reads
from tests.unit.commands import Command

CALL: Command = (
    "request_call",
    (
        "call-1",
        {
            "model_call_id": "m",
            "tool": "write_file",
            "agent": "coder",
            "rule": "r",
            "requires_decision": True,
            "arguments": {"path": "a\u009b31m.txt"},
        },
    ),
)
NDJSON = {"Accept": "application/x-ndjson"}


async def two_lives(url: str) -> None:
    await happen(url, "ada", "c1", says("hello"), CALL, ("decide_call", ("call-1", "approve", None, None)))
    await happen(url, "bob", "c2", says("good morning"))


async def asked(server: Serving, status: int = 200, **query: Any) -> dict[str, Any]:
    given = {("from" if name == "since" else name): value for name, value in query.items()}
    response = await server.client.http.get("/v1/audit/events", params=given)
    assert response.status_code == status, response.text
    return dict(response.json())


async def audited(folder: Path, url: str, *words: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(minutebook, folder, "audit", *words, database_url=url)
    return done.returncode, done.stdout, done.stderr


async def test_the_same_question_has_the_same_answer_over_http_and_on_the_command_line(
    database_url: str, tmp_path: Path
) -> None:
    await two_lives(database_url)
    questions: list[tuple[dict[str, Any], list[str]]] = [
        ({}, []),
        ({"conversation": "c2"}, ["--conversation", "c2"]),
        ({"type": ["*_received", "*.started"], "order": "desc"},
         ["--type", "*_received", "--type", "*.started", "--order", "desc"]),
        ({"tool": "write_file", "since": "2020-01-01"}, ["--tool", "write_file", "--from", "2020-01-01"]),
        ({"text": "GOOD"}, ["--text", "GOOD"]),
    ]  # fmt: skip
    printed = []
    for _, words in questions:  # before a server has ever run: the command line needs none
        code, out, err = await audited(tmp_path, database_url, "events", *words, "--json")
        assert code == 0, err
        printed.append([json.loads(line) for line in out.splitlines()])
    assert all(printed)
    async with serving_reads(database_url) as server:
        for (query, _), lines in zip(questions, printed, strict=True):
            answer = await asked(server, **query, min_position=9)
            assert (answer["events"], answer["next"]) == (lines, None)
            given = {("from" if name == "since" else name): value for name, value in query.items()}
            stream = await server.client.http.get("/v1/audit/events", params=given, headers=NDJSON)
            assert stream.headers["content-type"] == "application/x-ndjson"
            assert [json.loads(line) for line in stream.text.splitlines()] == lines


async def test_pages_go_on_where_the_one_before_ended(database_url: str) -> None:
    await two_lives(database_url)
    async with serving_reads(database_url) as server:
        found: list[int] = []
        after = 0
        while True:
            answer = await asked(server, limit=2, after=after)
            found += [event["position"] for event in answer["events"]]
            if answer["next"] is None:
                break
            after = answer["next"]
        assert found == list(range(1, answer["position"] + 1))


async def test_a_wrong_filter_is_refused_with_what_to_do_through_both_doors(
    database_url: str, tmp_path: Path
) -> None:
    sentence = "it reads user:<subject>, agent:<name> or system."
    async with serving_reads(database_url) as server:
        refused = await asked(server, 422, actor="ada")
        assert (refused["code"], sentence in refused["detail"]) == ("invalid_filter", True)
    code, _, err = await audited(tmp_path, database_url, "events", "--actor", "ada")
    assert (code, sentence in err) == (2, True), err


async def test_a_misspelled_filter_and_an_unknown_turn_are_refused(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        wrong = await asked(server, 422, conversations="c1")
        assert "there is no such filter; there are actor, after, agent" in wrong["detail"]
        assert (await asked(server, 404, turn="nobody"))["code"] == "turn_not_found"


@pytest.mark.parametrize("where", ["events?conversation=c1&conversation=c2", "export?conversations=c1",
                                   "export?to=2026-03-01", "approvals?actor=user:a&actor=user:b",
                                   "events?limit=1&limit=2", "proofs/consistency?from=1&size=2"])  # fmt: skip
async def test_what_would_be_left_out_without_a_word_is_refused(where: str, database_url: str) -> None:
    async with serving_reads(database_url) as server:
        answer = await server.client.http.get(f"/v1/audit/{where}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_filter"), answer.text
        twice = await server.client.http.get("/v1/audit/events?type=conversation.*&type=agent.*")
        assert twice.status_code == 200, twice.text


async def test_only_who_may_audit_sees_what_everybody_did(database_url: str) -> None:
    await two_lives(database_url)
    async with serving_reads(database_url, identity_header="X-User", scopes_header="X-Scopes") as server:
        ask = server.client.http.get
        eve = {"X-User": "eve", "X-Scopes": "chat operate"}
        assert (await ask("/v1/audit/events", headers=eve)).status_code == 403
        response = await ask("/v1/audit/events", headers={**eve, "X-Scopes": "audit"})
        assert {event["actor"] for event in response.json()["events"]} >= {"user:ada", "user:bob"}
        assert (await ask("/v1/audit/events")).status_code == 401


async def test_the_table_shows_no_control_characters_and_says_that_there_is_more(
    database_url: str, tmp_path: Path
) -> None:
    await two_lives(database_url)
    code, out, _ = await audited(tmp_path, database_url, "events", "--limit", "5")
    assert code == 0
    assert "tool_call_requested" in out
    assert "There may be more: --after 5" in out
    assert all(one.isprintable() or one == "\n" for one in out)
