"""Real conversations, said again over HTTP: the log holds what was said, in order, call by call."""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psycopg
import pytest

import infrastructure.models.providers  # noqa: F401  (takes a second to import: before the loop runs)
from tests.openai_server import OpenAIServer
from tests.recorded_model import RecordedModel
from tests.replaying import (
    ASK,
    LogRow,
    Person,
    Replay,
    expected_minutes,
    read_log,
    stored_minutes,
)
from tests.serving import serving

AGENTS = Path(__file__).with_name("airline.toml")
AT_A_TIME = 16

pytestmark = [
    pytest.mark.no_cover,  # it doubles the time, and shows no line that others do not
    pytest.mark.timeout(240),
    pytest.mark.may_block("clients, server and model share one heap, and its collection takes a while"),
]


async def replayed(
    database_url: str, conversations: list[dict[str, Any]], *, rough: bool, view_tokens: int
) -> tuple[Person, RecordedModel]:
    model = RecordedModel()
    gate = asyncio.Semaphore(AT_A_TIME)

    async def play(conversation: dict[str, Any]) -> None:
        async with gate:
            await Replay(conversation, person, model).play()

    async with (
        OpenAIServer(model) as openai,
        serving(
            database_url,
            agents=AGENTS,
            model="openai:recorded",
            model_base_url=openai.base_url,
            model_api_key="k",
            view_tokens=view_tokens,
        ) as server,
    ):
        person = Person(server.client, rough=rough)
        await asyncio.gather(*map(play, conversations))
    return person, model


@pytest.mark.parametrize(
    ("rough", "view_tokens"), [(False, 24_000), (True, 1_000)], ids=["plain", "repeated, cut, short view"]
)
async def test_the_log_holds_real_conversations_as_they_were_said(
    database_url: str, airline_conversations: list[dict[str, Any]], rough: bool, view_tokens: int
) -> None:
    began = time.monotonic()
    person, model = await replayed(database_url, airline_conversations, rough=rough, view_tokens=view_tokens)
    took = time.monotonic() - began
    log = await asyncio.to_thread(read_log, database_url)
    await asyncio.to_thread(_judge, log, airline_conversations)
    assert model.malformed == []
    answered = sum(row.type == "agent.model_called" for row in log)
    assert sum(model.asked.values()) == answered, "the model was asked for an answer that nobody kept"
    _judge_what_clients_were_told(person, log)
    await asyncio.to_thread(_judge_turns, database_url, person, log)
    assert {"at once", "after", "cut"} == set(person.repeats) if rough else not person.repeats
    sys.stdout.write(f"{len(person.turns)} turns, {len(log)} events, {took:.1f} s, {dict(person.repeats)}\n")


def _judge(log: list[LogRow], conversations: list[dict[str, Any]]) -> None:
    assert [row.position for row in log] == list(range(1, len(log) + 1))
    stored: dict[str, list[LogRow]] = defaultdict(list)
    for row in log:
        stored[row.conversation].append(row)
    assert set(stored) == {conversation["id"] for conversation in conversations}
    for conversation in conversations:
        assert stored_minutes(stored[conversation["id"]]) == list(expected_minutes(conversation))
    kinds = Counter(row.type.rpartition("_")[2] for row in log if "tool_call" in row.type)
    assert kinds["approved"] > kinds["edited"] > 0 < kinds["rejected"] < kinds["approved"]
    _judge_ids(log)


def _judge_ids(log: list[LogRow]) -> None:
    """The recordings use some of the model's ids again; ours are all different, theirs are all kept."""
    calls = [row for row in log if row.type == "conversation.tool_call_requested"]
    assert len({row.data["call_id"] for row in calls}) == len(calls) == 678
    assert len(calls) - len({(row.conversation, row.data["model_call_id"]) for row in calls}) == 38
    assert all(
        (row.data["rule"] == "booking-changing") == bool(ASK.fullmatch(row.data["tool"])) for row in calls
    )


def _judge_what_clients_were_told(person: Person, log: list[LogRow]) -> None:
    told = {frame.data["position"]: (frame.type, frame.data["data"]) for frame in person.frames}
    assert len(told) == len(person.frames), "two frames told the same position"
    assert told == {row.position: (row.type, row.data) for row in log}


def _judge_turns(database_url: str, person: Person, log: list[LogRow]) -> None:
    with psycopg.connect(database_url) as connection:
        turns = connection.execute("SELECT id, state, attempt FROM turns").fetchall()
    assert sorted(turns) == sorted((turn, "committed", 1) for turn in person.turns)
    assert {row.turn for row in log} == set(person.turns)
