"""The log, searched: every filter and every combination finds what a reading of the whole log finds."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from application.audit import EventFilter, every_page
from application.audit_filter import event_filter, mentions
from application.errors import TurnNotFoundError
from application.event_types import EVENT_TYPES
from application.ports import LoggedEvent
from infrastructure.postgres import audit, audit_walk
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool
from tests.opened import vault
from tests.projecting import happened, store, woven
from tests.reading import caught_up
from tests.unit.commands import TASKS, Command

WORDS = ["refund", "Straße", "seven seats", "nothing"]


def some_life(chance: random.Random) -> list[Command]:
    """A few things that happen in a conversation, calls of three tools among them."""
    history: list[Command] = []
    for number in range(chance.randrange(2, 9)):
        tool, call_id = chance.choice(["write_file", "read_file", "delete_file"]), f"call-{number}"
        asked = {"model_call_id": "m", "tool": tool, "agent": "coder", "rule": "r", "requires_decision": True}
        history += [
            ("receive_user_message", (f"m{number}", chance.choice(WORDS))),
            ("request_call", (call_id, {**asked, "arguments": {"n": chance.randrange(99)}})),
            ("decide_call", (call_id, chance.choice(["approve", "reject"]), None, None)),
        ]
        if chance.random() < 0.5:
            history.append(("receive_tool_result", (call_id, {"said": [chance.choice(WORDS)]}, None)))
        if chance.random() < 0.3:
            history.append(("propose_plan", ("p", "goal", [TASKS[0].to_json()], "architect")))
    return history


@pytest.fixture
async def log(database_url: str, pool: Pool) -> list[LoggedEvent]:
    """A log of conversations, side by side, stored one part after the other."""
    chance = random.Random(7)
    events = woven([happened(f"c{number}", some_life(chance)) for number in range(16)])
    for first in range(0, len(events), 200):  # each part is a transaction, and has its own time
        await asyncio.to_thread(store, database_url, events[first : first + 200])
    await caught_up(database_url)
    return list(await PostgresLog(pool, MinutesMapper().to_logged).read(1, len(events)))


@pytest.fixture
async def auditing(pool: Pool, log: list[LoggedEvent]) -> PostgresAudit:
    return PostgresAudit(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))


def fits(event: LoggedEvent, wanted: EventFilter) -> bool:
    """Whether an event is wanted, said as plainly as can be."""
    checks: dict[str, bool] = {
        "conversation": event.conversation_id == wanted.conversation,
        "stream": event.stream == wanted.stream,
        "types": event.type in wanted.types,
        "actor": event.actor == wanted.actor,
        "tool": event.data.get("tool") == wanted.tool,
        "turn": event.turn_id == wanted.turn,
        "since": wanted.since is not None and event.recorded_at >= wanted.since,
        "until": wanted.until is not None and event.recorded_at < wanted.until,
        "after": wanted.after is not None and event.position > wanted.after,
        "before": wanted.before is not None and event.position < wanted.before,
        "text": wanted.text is not None and mentions(event.data, wanted.text.casefold()),
        "about": wanted.about in [event.data.get(name) for name in ("agent", "to")],
    }
    given = [name for name in checks if getattr(wanted, name) not in (None, ())]
    return all(checks[name] for name in given)


def expected(log: Sequence[LoggedEvent], wanted: EventFilter) -> list[int]:
    found = [event.position for event in log if fits(event, wanted)]
    return found[::-1] if wanted.newest_first else found


async def positions(auditing: PostgresAudit, wanted: EventFilter, limit: int) -> list[int]:
    found = [
        event.position
        async for page in every_page(auditing, wanted, size=limit)
        for event in page.value.events
    ]
    assert len(found) == len(set(found))
    return found


def some_filter(chance: random.Random, log: Sequence[LoggedEvent]) -> EventFilter:
    """A filter of some of the things that there are, and of some that there are not."""
    one, other = chance.choice(log), chance.choice(log)
    low, high = sorted((chance.randrange(len(log)), chance.randrange(len(log))))
    given: dict[str, Any] = {
        "conversation": one.conversation_id,
        "stream": one.stream,
        "types": chance.sample([*EVENT_TYPES, "conversation.tool_*", "*.plan_*", "agent.*"], 3),
        "actor": chance.choice([one.actor, "user:nobody"]),
        "tool": chance.choice(["write_file", "read_file", "no_tool"]),
        "since": min(one, other, key=lambda event: event.position).recorded_at.isoformat(),
        "until": (max(one.recorded_at, other.recorded_at) + timedelta(microseconds=1)).isoformat(),
        "after": low,
        "before": high + 2,
        "text": chance.choice(["REFUND", "strasse", "7", "never said"]),
        "turn": one.turn_id,
        "agent": chance.choice(["coder", "architect", "nobody"]),
    }
    chosen = set(chance.sample(sorted(given), chance.choice([0, 1, 2, 3, 4, 6, len(given)])))
    if chance.random() < 0.5:  # what fits all of them: else many filters would find nothing at all
        given |= fitting(one, len(log))
    if "turn" in chosen:  # the rows of these turns are not there, so the conversation says where to look
        chosen.add("conversation")
    asked = {name: given[name] for name in chosen}
    return event_filter(**asked, order=chance.choice(["asc", "desc"]))


def fitting(event: LoggedEvent, newest: int) -> dict[str, Any]:
    """Return filters that this event fits, each and all of them."""
    said = event.data.get("content") or event.data.get("call_id")
    agent = event.data.get("agent") or event.data.get("to")
    about = {"tool": event.data.get("tool"), "text": said, "agent": agent}
    return {
        "actor": event.actor,
        "types": [event.type.replace("tool_", "*_"), f"{event.type[:-4]}*"],
        "after": event.position - 2 if event.position > 1 else 0,
        "before": newest + 1,
        **{name: value for name, value in about.items() if value},
    }


@pytest.mark.parametrize(
    ("budget", "look_s"),
    [(3, 0.0), (3, 60.0), (10_000, audit.LOOK_S)],
    ids=["a small step a page", "many small steps a page", "as it is"],
)
@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
async def test_filters_find_what_reading_the_whole_log_finds_in_any_combination_and_order(
    budget: int,
    look_s: float,
    auditing: PostgresAudit,
    log: list[LoggedEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(budget)
    monkeypatch.setattr(audit_walk, "_NARROW", 0)
    monkeypatch.setattr(audit, "LOOK_S", look_s)
    if budget < 10_000:
        for name in ("BUDGET", "_FIRST", "_LEAST"):
            monkeypatch.setattr(audit_walk, name, budget)
        monkeypatch.setattr(audit_walk, "_PROBE", 8)
        monkeypatch.setattr(audit, "_TEXT_CHUNK", 5)
    times, hits = 15 if budget < 10_000 else 60, 0
    for _ in range(times):
        wanted = some_filter(chance, log)
        limit = 200 if budget < 10_000 or wanted.is_by_content else chance.choice([17, 200])
        hits += bool(expected(log, wanted))
        assert await positions(auditing, wanted, limit) == expected(log, wanted), wanted
    assert hits >= times / 5, "else this test would compare nothing with nothing"


async def test_each_filter_alone_finds_all_there_is(auditing: PostgresAudit, log: list[LoggedEvent]) -> None:
    middle = log[len(log) // 2]
    for wanted in (
        event_filter(conversation="c3"),
        event_filter(stream="agent-c3"),
        event_filter(types=["conversation.tool_*"]),
        event_filter(actor="user:ada"),
        event_filter(agent="coder"),
        event_filter(tool="write_file"),
        event_filter(since=middle.recorded_at.isoformat()),
        event_filter(until=middle.recorded_at.isoformat()),
        event_filter(after=40, before=70),
        event_filter(text="straSSe"),
        EventFilter(),
    ):
        assert await positions(auditing, wanted, 50) == expected(log, wanted) != []


async def test_a_turn_is_found_by_the_conversation_it_was_in(
    auditing: PostgresAudit, log: list[LoggedEvent]
) -> None:
    wanted = event_filter(turn="turn-2", conversation="c3")
    assert await positions(auditing, wanted, 50) == expected(log, wanted) != []
    with pytest.raises(TurnNotFoundError):
        await auditing.page(event_filter(turn="turn-2"), 50)


async def test_pages_follow_one_another_while_the_log_grows(
    database_url: str, auditing: PostgresAudit, log: list[LoggedEvent]
) -> None:
    pages = every_page(auditing, event_filter(actor="user:ada"), size=100)
    found = [event.position for event in (await anext(pages)).value.events]
    await asyncio.to_thread(store, database_url, happened("later", [("rename", ("x",))]))
    found += [event.position async for page in pages for event in page.value.events]
    assert found == expected(log, event_filter(actor="user:ada"))


async def test_a_page_of_a_text_that_nobody_said_ends_and_says_how_far_it_looked(
    auditing: PostgresAudit, log: list[LoggedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LOOK_S", 0)
    monkeypatch.setattr(audit, "_TEXT_CHUNK", 10)
    page = (await auditing.page(event_filter(text="never said"), 50)).value
    assert (page.events, page.next) == ([], 10)
    page = (await auditing.page(replace(event_filter(text="never said"), after=page.next), 50)).value
    assert (page.events, page.next) == ([], 20)


def never_together(log: list[LoggedEvent]) -> EventFilter:
    """Return a filter by an actor and a type, both of them frequent, that no event is both of."""
    actors, types = Counter(event.actor for event in log), Counter(event.type for event in log)
    both = {(event.actor, event.type) for event in log}
    pairs = ((min(actors[actor], types[kind]), actor, kind) for actor in actors for kind in types)
    count, actor, kind = max(pair for pair in pairs if pair[1:] not in both)
    assert count > 10
    return EventFilter(actor=actor, types=(kind,))


async def test_a_page_that_finds_nothing_ends_when_its_time_is_over_and_says_how_far_it_looked(
    auditing: PostgresAudit, log: list[LoggedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_walk, "_FIRST", 10)
    monkeypatch.setattr(audit_walk, "_LEAST", 10)
    wanted = never_together(log)
    monkeypatch.setattr(audit, "LOOK_S", 60)
    page = (await auditing.page(wanted, 50)).value
    assert (page.events, page.next) == ([], None)
    monkeypatch.setattr(audit, "LOOK_S", 0)
    page = (await auditing.page(wanted, 50)).value
    assert (page.events, page.next is None) == ([], False)
    assert await positions(auditing, wanted, 50) == []


async def test_a_page_of_large_events_is_cut_and_goes_on(
    auditing: PostgresAudit, log: list[LoggedEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_FETCH", audit._FETCH.replace(str(audit._PAGE_BYTES), "100"))
    wanted = event_filter(actor="user:ada")
    assert len((await auditing.page(wanted, 50)).value.events) == 20
    assert await positions(auditing, wanted, 50) == expected(log, wanted)


async def test_a_time_leads_to_the_newest_event_recorded_until_then(
    auditing: PostgresAudit, log: list[LoggedEvent]
) -> None:
    for event in log[::37]:
        same = [one.position for one in log if one.recorded_at <= event.recorded_at]
        assert await auditing.before(event.recorded_at) == same[-1]
    assert await auditing.before(log[0].recorded_at - timedelta(seconds=1)) == 0
    assert await auditing.before(log[-1].recorded_at + timedelta(days=900)) == len(log)
