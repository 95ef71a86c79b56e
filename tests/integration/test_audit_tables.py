"""What the audit's commands show people, each on a conversation with all kinds of things in it."""

import asyncio
import json
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from api.cli import cli
from api.cli_audit import FOR_PEOPLE
from application import audit_show
from infrastructure.projections import checkpoints
from infrastructure.projections.catching_up import BehindError, catch_up
from infrastructure.projections.connecting import connect
from infrastructure.projections.operating import make_tables
from infrastructure.projections.requests import Requests
from tests.opened import vault
from tests.reading import happen, says
from tests.tampering import adversary
from tests.unit.commands import TASKS, Command


def call(number: int) -> Command:
    asked = {"model_call_id": "m", "tool": "write_file", "agent": "coder", "rule": "writing"}
    return (
        "request_call",
        (f"call-{number}", {**asked, "requires_decision": True, "arguments": {"n": number}}),
    )


HISTORY: list[Command] = [
    says("please [b]write[/b] it"), call(1), ("decide_call", ("call-1", "reject", None, "not that")),
    call(2), ("decide_call", ("call-2", "edit", {"n": 99}, None)),
    ("receive_tool_result", ("call-2", "written", None)),
    ("propose_plan", ("p1", "a goal", [TASKS[0].to_json()], "architect")),
    ("decide_plan", ("p1", 1, "approve", None)),
]  # fmt: skip


def shown(*words: str) -> str:
    done = CliRunner().invoke(cli, ["audit", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
async def told(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await happen(database_url, "ada", "c1", *HISTORY)
    monkeypatch.setenv("MINUTEBOOK_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["events", "--conversation", "c1"], ["[b]write[/b]", "tool_call_edited", "plan_approved"]),
        (["show", "4"], ["please [b]write[/b] it", "What led to it", "All events of its turn"]),
        (["show-conversation", "c1"], ["plan_in_execution", "answered", "a goal"]),
        (["diff", "c1", "4", "9"], ["events after position 4, up to 9", "Changed, as they are now"]),
        (["approvals"], ["edit", "reject", "not that", '{"n": 99}', "plan", "user:ada"]),
        (["approvals", "--decision", "edit"], ['{"n": 99}']),
        (["retried"], ["c1", "write_file", '{"n": 2}']),
        (["approvals", "--limit", "1"], ["There may be more: --after"]),
        (["agent", "coder"], ["tool_result_received"]),
        (["agent", "coder", "--limit", "1"], ["There may be more: --after 7"]),
        (["agent", "coder", "--after", "7", "--limit", "1"], ["There may be more: --after 11"]),
        (["running"], ["turn_id"]),
        (["abandoned"], ["turn_id"]),
        (["failed"], ["code"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_a_command_shows_what_was_so(told: None, words: list[str], expected: list[str]) -> None:
    output = await asyncio.to_thread(shown, *words)
    assert [word for word in expected if word not in output] == [], output


ODD: list[Command] = [
    says("[b] :smile:"),
    ("request_call", ("call-1", {"model_call_id": "m", "tool": "[/odd]", "agent": "coder", "rule": "r",
                                 "requires_decision": True, "arguments": {}})),
    ("decide_call", ("call-1", "reject", None, None)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["approvals"], "[/odd]"), (["events"], "[b] :smile:"), (["show-conversation", "odd"], '"calls": []')],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_no_sign_of_what_was_said_is_taken_for_markup(
    database_url: str, told: None, words: list[str], expected: str
) -> None:
    await happen(database_url, "ada", "odd", *ODD)
    output = await asyncio.to_thread(shown, *words)
    assert expected in output


async def test_a_script_gets_all_decisions_and_a_person_is_told_that_there_are_more(
    database_url: str, told: None
) -> None:
    for number in range(FOR_PEOPLE // 2):  # two decisions on calls, and one on a plan, in each
        await happen(database_url, "ada", f"more-{number}", *HISTORY)
    lines = (await asyncio.to_thread(shown, "approvals", "--json")).splitlines()
    assert len(lines) == 3 * (FOR_PEOPLE // 2 + 1)
    assert "There may be more: --after" in await asyncio.to_thread(shown, "approvals")


async def test_a_read_model_that_stands_still_is_said_so(database_url: str, told: None) -> None:
    make_tables(database_url, [Requests()])
    with connect(database_url, "another process") as holding:  # it runs the read model, and does nothing
        assert checkpoints.try_lock(holding, "follow", "requests")
        with pytest.raises(BehindError, match="requests stands still"):
            await catch_up(database_url, Requests(), vault(), still_s=0.3)
    await catch_up(database_url, Requests(), vault())
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT p.position = h.position FROM projections p, log_head h WHERE name = 'requests'"
        ).fetchone()
    assert row == (True,)


async def test_what_was_removed_or_changed_is_told_as_such_and_hides_none_of_the_others(
    database_url: str, told: None
) -> None:
    before = [len((await asyncio.to_thread(shown, word)).splitlines()) for word in ("approvals", "retried")]
    types = (
        "tool_call_requested",
        "tool_call_edited",
        "tool_call_rejected",
        "plan_proposed",
        "plan_approved",
    )
    for number, statement in enumerate(
        ("UPDATE log SET data = 'not JSON' WHERE type = %s", "DELETE FROM log WHERE type = %s")
    ):
        with adversary(database_url) as connection:
            for kind in types:
                connection.execute(statement.encode(), [f"conversation.{kind}"])
        outputs = [await asyncio.to_thread(shown, word) for word in ("approvals", "retried")]
        assert [len(output.splitlines()) for output in outputs] == before
        assert all(("unreadable", "missing")[number] in output for output in outputs)
        lines = (await asyncio.to_thread(shown, "approvals", "--json")).splitlines()
        asked = [json.loads(line)["asked"] for line in lines]
        assert all(one["unreadable"] if number == 0 else one is None for one in asked)


@pytest.mark.parametrize("position", [1, 4, 8, 11])
async def test_of_a_turn_with_very_many_events_those_around_the_one_are_shown(
    database_url: str, told: None, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    with adversary(database_url) as connection:
        connection.execute("UPDATE log SET turn = 'import-c1'")
        (newest,) = connection.execute("SELECT max(position) FROM log").fetchone() or (0,)
    whole = json.loads(await asyncio.to_thread(shown, "show", str(position), "--json"))
    every = [one["position"] for one in whole["turn_events"]]
    assert (every, whole["turn_events_cut"]) == (list(range(1, newest + 1)), False)
    monkeypatch.setattr(audit_show, "TURN_EVENTS", 6)
    some = json.loads(await asyncio.to_thread(shown, "show", str(position), "--json"))
    there = [one["position"] for one in some["turn_events"]]
    first = min(max(position - 2, 1), newest - 5)
    assert (there, some["turn_events_cut"]) == (list(range(first, first + 6)), True)
    assert "it has more" in await asyncio.to_thread(shown, "show", str(position))
