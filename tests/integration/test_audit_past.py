"""A conversation as it was: at every position what the aggregates and the transcript said at that time."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings

from application.frames import IDLE, outcome_of
from application.past import Past, difference
from application.queries import Entry
from domain.agent import Agent
from domain.aggregate import By, plain
from domain.conversation import Conversation
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.rows import Row
from infrastructure.projections.past import PostgresPast
from infrastructure.projections.transcript import ENTRIES, Transcript
from infrastructure.projections.transcript_queries import entry_of
from tests.folding import aggregates, folded, logged, numbered
from tests.opened import opened_log
from tests.projecting import store
from tests.serving import Client, serving_reads
from tests.unit.commands import Command, do, histories

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

MAPPER = MinutesMapper()
Snapshot = dict[str, Any]


def lived(name: str, history: Sequence[Command]) -> Iterator[tuple[list[NewEvent], Snapshot]]:
    """Let a conversation happen; after each step yield its events, and what its aggregates say then."""
    by = By("user:ada", "turn-0")
    conversation, agent = Conversation.begin(name, by), Agent.assign(name, "coder", by)
    for number, command in enumerate([("rename", ("first",)), *history], start=1):
        by = By("user:ada", f"turn-{number}")
        do(conversation, command, by)
        if number % 4 == 1:
            agent.switch("ask" if agent.name == "coder" else "coder", "asked", "user:ada", by)
        made = [*conversation.collect_events(), *agent.collect_events()]
        events = [MAPPER.to_new_event(event) for event in made]  # type: ignore[arg-type]
        yield events, snapshot(conversation, agent.name)


def snapshot(conversation: Conversation, agent: str | None) -> Snapshot:
    outcome = outcome_of(conversation) or IDLE
    return {
        "state": conversation.state,
        "waiting_for": outcome["waiting_for"],
        "agent": agent,
        "title": conversation.title,
        "plan": plain(conversation.plan),
    }


async def replays_as_it_was(url: str, name: str, history: Sequence[Command]) -> None:
    """Write a conversation step by step, snapshots taken; then ask for each position."""
    taken: dict[int, Snapshot] = {}
    for events, now in lived(name, history):
        if events:
            taken[await asyncio.to_thread(store, url, events)] = now
    async with open_pool(url, min_size=1, max_size=2) as pool:
        pasts = PostgresPast(pool, MAPPER)
        for position, then in taken.items():
            past = await pasts.as_of(name, position)
            assert past is not None
            assert {field: getattr(past, field) for field in then} == then
            assert past.position == position
        assert await pasts.as_of(name, min(taken) - 10_000) is None
        stored = await asyncio.to_thread(opened_log, url)
        await replays_every_event(pasts, [row for row in stored if row.conversation == name])


async def replays_every_event(pasts: PostgresPast, log: Sequence[Row]) -> None:
    """Ask for each position, also in the midst of a turn: it is what the events up to there make."""
    for number, row in enumerate(log, start=1):
        past = await pasts.as_of(row.conversation, row.position)
        assert past is not None
        assert (past.position, past.events) == (row.position, number)
        assert past.entries == entries_of(log[:number])
        conversation = aggregates(log[:number])[row.conversation]
        then = snapshot(conversation, past.agent)
        assert {field: getattr(past, field) for field in then} == then


def entries_of(log: Sequence[Row]) -> list[Entry]:
    rows = folded(Transcript(), logged(log))[ENTRIES.name]
    return [entry_of(row) for row in sorted(rows, key=lambda row: int(row["position"]))]


def test_at_every_position_a_conversation_is_what_its_aggregates_said_then(database_url: str) -> None:
    numbers = count()

    @settings(max_examples=20, deadline=None)
    @given(histories())
    def check(history: list[Command]) -> None:
        asyncio.run(replays_as_it_was(database_url, f"c{next(numbers)}", history))

    check()


async def a_long_story(client: Client, name: str) -> AsyncIterator[dict[str, Any]]:
    """Let calls be edited, rejected and answered, and a plan be sent back and carried out."""

    async def send(kind: str, **what: Any) -> dict[str, Any]:
        frames = await client.send({"type": kind, **what}, conversation_id=name)
        end: dict[str, Any] = frames[-1].data
        assert frames[-1].type == "turn.committed", end
        return end

    yield await send("user_message", content="hello")
    for decision in (
        {"decision": "edit", "arguments": {"path": "a"}},
        {"decision": "reject", "feedback": "no"},
    ):
        end = await send("user_message", content="write hello.txt", agent="coder")
        yield end
        (call,) = end["waiting_for"]["decisions"]
        end = await send("hitl_decision", call_id=call, **decision)
        yield end
        if end["waiting_for"]["calls"]:
            yield await send("tool_result", call_id=call, result="written")
    end = await send("user_message", content="plan a site", agent="architect")
    for version, decided in enumerate(
        ({"decision": "modify", "feedback": "a map"}, {"decision": "approve"}), 1
    ):
        yield end
        plan = end["waiting_for"]["plan"]["plan_id"]
        end = await send("plan_decision", plan_id=plan, plan_version=version, **decided)
    while calls := end["waiting_for"]["calls"]:
        yield end
        for call in end["waiting_for"]["decisions"]:
            yield await send("hitl_decision", call_id=call, decision="approve")
        end = await send("tool_result", call_id=calls[0], result="done")
    yield end


async def test_at_every_turn_the_transcript_is_what_a_reader_got_then(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        http, seen = server.client.http, {}
        async for end in a_long_story(server.client, "c1"):
            now = {"min_position": end["last_position"]}
            page = {**now, "limit": 200}
            transcript = (await http.get("/v1/conversations/c1/messages", params=page)).json()["entries"]
            one = (await http.get("/v1/conversations/c1", params=now)).json()["conversation"]
            seen[end["last_position"]] = (transcript, one, datetime.now(UTC).isoformat())
        for position, (transcript, one, at) in seen.items():
            for place in (str(position), at):
                answer = await http.get("/v1/audit/conversations/c1", params={"at": place})
                then = answer.json()["conversation"]
                assert then["entries"] == transcript
                assert (then["state"], then["agent"]) == (one["state"], one["agent"])
                assert (then["waiting_for"], then["events"]) == (one["waiting_for"], one["events"])
        kinds = {entry["kind"] for entry in seen[max(seen)][0]}
        assert kinds >= {"message", "switch", "call", "plan"}
        first, last = min(seen), max(seen)
        query = {"from": first, "to": last}
        changes = (await http.get("/v1/audit/conversations/c1/changes", params=query)).json()["changes"]
        old = {entry["position"] for entry in seen[first][0]}
        assert changes["added"] == [entry for entry in seen[last][0] if entry["position"] not in old]
        assert changes["events"] == seen[last][1]["events"] - seen[first][1]["events"]
        same = await http.get("/v1/audit/conversations/c1/changes", params={"from": last, "to": last})
        nothing = {"events": 0, "fields": {}, "added": [], "changed": []}
        assert same.json()["changes"] == {"first": last, "last": last, **nothing}
        back = await http.get("/v1/audit/conversations/c1/changes", params={"from": last, "to": first})
        assert (back.status_code, back.json()["code"]) == (422, "invalid_filter")
        assert (await http.get("/v1/audit/conversations/c1", params={"at": "0"})).status_code == 404
        wrong = await http.get("/v1/audit/conversations/c1", params={"at": "then"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_filter")


@settings(deadline=None)
@given(histories())
def test_a_difference_says_all_that_differs_and_nothing_else(history: list[Command]) -> None:
    pasts = list(remembered(history))
    for before, after in pairwise(pasts):
        found = difference(before, after)
        for name in ("state", "waiting_for", "agent", "title", "plan"):
            both = [getattr(before, name), getattr(after, name)]
            assert found.fields.get(name, [both[0]] * 2) == both
            assert (name in found.fields) == (both[0] != both[1])
        old = {entry.position: entry for entry in before.entries}
        told = {entry.position for entry in found.added} | {entry.position for _, entry in found.changed}
        assert told == {entry.position for entry in after.entries if old.get(entry.position) != entry}
        assert all(old[was.position] == was != now for was, now in found.changed)
    whole = difference(None, pasts[-1])
    assert (whole.first, list(whole.added), list(whole.changed)) == (0, list(pasts[-1].entries), [])


def remembered(history: Sequence[Command]) -> Iterator[Past]:
    """Yield what was so after each step, in memory."""
    events: list[NewEvent] = []
    for more, now in lived("c1", history):
        events += more
        entries = entries_of(numbered(events))
        yield Past("c1", len(events), events=len(events), entries=entries, **now)
