"""`minutebook audit show`, `approvals` and the like: one command for each question an auditor asks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from api.bootstrap.audit import open_audit
from api.bootstrap.database import database
from api.cli_audit import FOR_PEOPLE, Json, Limit, Since, Until, say, show_events
from api.cli_tables import add_to, brief, gist, print_table, table_of
from api.settings import read_settings
from application.audit import AuditLog
from application.audit_filter import MOST, event_filter, place_of, time_of
from application.audit_questions import (
    DECISIONS,
    Questions,
    RequestFilter,
    Some,
    approvals,
    rejected_and_retried,
)
from application.audit_show import shown, shown_said, turn_said
from application.auditing import Audit
from application.errors import InvalidFilterError
from application.past import Changes, Past, as_of, changes
from application.ports import TurnRow
from application.queries import Answer, Entry, Page

T = TypeVar("T")
# The names of a table's columns, and what a row of it says of each thing found.
Columns = tuple[Sequence[str], Callable[[Mapping[str, Any]], Sequence[object]]]
FAULTS = ("unreadable", "missing")  # of events that were changed or removed
Id = Annotated[str, typer.Argument(help="The id of a conversation.")]
Position = Annotated[int, typer.Argument(min=0, max=MOST, metavar="POSITION", help="A position of the log.")]
At = Annotated[
    str, typer.Option(help="A position, or a time as 2026-03-01T09:00; absent: now.", show_default=False)
]
Conversation = Annotated[str | None, typer.Option(help="The id of a conversation.")]
Tool = Annotated[str | None, typer.Option(help="A tool's name.")]
After = Annotated[int, typer.Option(min=0, help="Only after this position.")]


def register(audit: typer.Typer) -> None:
    """Add the commands."""
    audit.command()(show)
    audit.command("show-conversation")(show_conversation)
    audit.command()(diff)
    audit.command(name="approvals")(list_approvals)
    audit.command()(agent)
    audit.command()(running)
    audit.command()(abandoned)
    audit.command()(failed)
    audit.command()(retried)


def answer_of(ask: Callable[[Audit], Awaitable[T]], *, is_caught_up: bool = False) -> T:
    """Ask the database of the settings one question."""
    settings = read_settings()

    async def asked(url: str) -> T:
        async with open_audit(settings, url, is_caught_up=is_caught_up) as desk:
            return await ask(desk)

    with database(settings) as url:
        return asyncio.run(asked(url))


# --- one event, one conversation -----------------------------------------------------------------


def show(position: Position, as_json: Json = False) -> None:
    """Show an event, its turn with all its events, and what led to it."""
    said = shown_said(answer_of(lambda desk: shown(desk.log, position)))
    if as_json:
        say(said)
        return
    for name, value in said["event"].items():
        print(f"{name:16} {brief(value)}")
    for name, value in (said["turn"] or {}).items():
        print(f"turn.{name:16} {brief(value)}")
    _print_events("What led to it", said["led_to_by"])
    _print_events(_SOME if said["turn_events_cut"] else "All events of its turn", said["turn_events"])


_SOME = "Events of its turn before and after it; it has more: minutebook audit events --turn"


def _print_events(title: str, events: Iterable[Mapping[str, Any]]) -> None:
    table = table_of("position", "recorded at", "actor", "type", "what")
    table.title = title
    for one in events:
        row = (one["position"], one["recorded_at"], one["actor"], one["type"])
        add_to(table, *row, gist(one["data"]))
    print_table(table, cut_last=True)


def show_conversation(conversation_id: Id, at: At = str(MOST), as_json: Json = False) -> None:
    """Show a conversation's state and transcript as they were at a position or a time."""
    place = place_of("at", at)
    past = answer_of(lambda desk: as_of(desk.log, desk.pasts, conversation_id, place))
    if as_json:
        say(past)
        return
    _print_past(past)
    _print_entries("Transcript", past.entries)


def _print_past(past: Past) -> None:
    for name in ("conversation_id", "position", "state", "agent", "title", "waiting_for", "plan", "events"):
        print(f"{name:16} {brief(getattr(past, name))}")


def _print_entries(title: str, entries: Iterable[Entry]) -> None:
    table = table_of("position", "recorded at", "actor", "kind", "status", "what")
    table.title = title
    for one in entries:
        when = one.recorded_at.isoformat(timespec="seconds")
        what = brief(one.text) if one.text else gist(one.detail)
        status = str(one.detail.get("status") or "")
        add_to(table, one.position, when, one.actor, one.kind, status, what)
    print_table(table, cut_last=True)


def diff(
    conversation_id: Id,
    first: Annotated[str, typer.Argument(metavar="FROM", help="A position, or a time as 2026-03-01.")],
    last: Annotated[
        str, typer.Argument(metavar="TO", help="The same; absent: now.", show_default=False)
    ] = str(MOST),
    as_json: Json = False,
) -> None:
    """Show what changed in a conversation between two positions or times."""
    places = place_of("FROM", first), place_of("TO", last)
    found = answer_of(lambda desk: changes(desk.log, desk.pasts, conversation_id, *places))
    if as_json:
        say(found)
        return
    _print_changes(found)


def _print_changes(found: Changes) -> None:
    print(f"{found.events} events after position {found.first}, up to {found.last}")
    for name, (before, after) in found.fields.items():
        print(f"{name:16} {brief(before)} -> {brief(after)}")
    _print_entries("New", found.added)
    _print_entries("Changed, as they are now", [after for _, after in found.changed])


# --- questions -----------------------------------------------------------------------------------


def list_approvals(
    conversation: Conversation = None,
    tool: Tool = None,
    decision: Annotated[str | None, typer.Option(help="approve, edit, modify or reject")] = None,
    actor: Annotated[str | None, typer.Option(help="Who decided: user:SUBJECT")] = None,
    since: Since = None,
    until: Until = None,
    after: After = 0,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List every decision: who, when, what was asked, what was changed, what came of it."""
    same = event_filter(
        conversation=conversation, tool=tool, actor=actor, since=since, until=until, after=after
    )
    if decision not in (None, *DECISIONS):
        raise InvalidFilterError(name="decision", reason=f"it is one of {', '.join(DECISIONS)}")
    wanted = RequestFilter(conversation, tool, decision, actor, same.since, same.until, after)
    names = ("decided", "at", "who", "decision", "tool", "outcome", "what was asked and changed")
    _tell(approvals, wanted, limit, None if as_json else (names, _decision))


def _decision(one: Mapping[str, Any]) -> Sequence[object]:
    by, asked = _event(one["decided"]), _event(one["asked"])
    changed = {
        name: by[name] for name in ("arguments_after", "feedback", *FAULTS) if by.get(name) is not None
    }
    words = {name: asked[name] for name in ("arguments", "goal", *FAULTS) if name in asked}
    what = (one["decision"], one["tool"] or "plan", one["outcome"] or "")
    return [by["position"], by["at"][:19], by["by"], *what, brief({**words, **changed})]


def _event(said: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what is told of an event; of one that is not in the log any more, that it is not."""
    return said or {"position": "", "at": "", "by": "", "missing": True}


def retried(
    conversation: Conversation = None,
    tool: Tool = None,
    since: Since = None,
    until: Until = None,
    after: After = 0,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List the rejected calls after which the same tool was tried again."""
    same = event_filter(conversation=conversation, tool=tool, since=since, until=until, after=after)
    wanted = RequestFilter(conversation, tool, None, None, same.since, same.until, after)
    names = ("conversation", "tool", "rejected", "who", "again", "decision", "outcome", "arguments")
    _tell(rejected_and_retried, wanted, limit, None if as_json else (names, _retry))


def _retry(one: Mapping[str, Any]) -> Sequence[object]:
    no, again = one["rejected"], one["again"]
    by, asked = _event(no["decided"]), _event(again["asked"])
    words = (no["conversation_id"], no["tool"], by["position"], by["by"])
    then = (asked["position"], again["decision"] or "", again["outcome"] or "")
    return [*words, *then, brief(asked.get("arguments", {one: True for one in FAULTS if one in asked}))]


def _tell(
    question: Callable[[AuditLog, Questions, RequestFilter, int], Awaitable[Answer[Some]]],
    wanted: RequestFilter,
    limit: int | None,
    table: Columns | None,
) -> None:
    """Ask page after page until there are so many, or no more: a table of them, or each as a line of JSON."""

    async def asked(desk: Audit) -> tuple[list[Any], int | None]:
        found, left, behind = list[Any](), _most(limit, table), wanted
        while True:
            some = (await question(desk.log, desk.questions, behind, min(200, left))).value
            left -= len(some.items)
            for one in some.items:
                found.append(one) if table else say(one)
            if some.next is None or not left:
                return found, some.next
            behind = replace(behind, after=some.next)

    found, more = answer_of(asked, is_caught_up=True)
    if table:
        _print(found, table)
    if table and more:
        print(f"There may be more: --after {more}")


def _most(limit: int | None, table: Columns | None) -> int:
    return limit or (FOR_PEOPLE if table else MOST - 1)


def agent(
    name: Annotated[str, typer.Argument(help="An agent's name.")],
    since: Since = None,
    until: Until = None,
    after: After = 0,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List everything an agent did between two times."""
    show_events(event_filter(agent=name, since=since, until=until, after=after), limit, as_json)


def running(
    at: Annotated[str | None, typer.Option(help="A time; absent: now.")] = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List the turns that ran at a time, of those accepted in the 24 hours before it."""
    when = time_of("at", at) or datetime.now(UTC)
    _tell_turns(lambda questions, most: questions.running(when, None, most), limit, as_json)


def abandoned(limit: Limit = None, as_json: Json = False) -> None:
    """List the turns that were running when their server died, newest first."""
    _tell_turns(lambda questions, most: questions.ended_badly("abandoned", None, most), limit, as_json)


def failed(limit: Limit = None, as_json: Json = False) -> None:
    """List the turns that failed, and why, newest first."""
    _tell_turns(lambda questions, most: questions.ended_badly("failed", None, most), limit, as_json)


def _tell_turns(
    ask: Callable[[Questions, int], Awaitable[Page[TurnRow]]], limit: int | None, as_json: bool
) -> None:
    names = ("accepted_at", "ended_at", "turn_id", "by", "kind", "state", "code", "conversation_id")
    table = None if as_json else (names, lambda turn: [turn[name] or "" for name in names])
    page = answer_of(lambda desk: ask(desk.questions, _most(limit, table)))
    turns = [turn_said(row) for row in page.items]
    if table is None:
        for turn in turns:
            say(turn)
        return
    _print(turns, table)
    if page.more:
        print(f"There are more: --limit {10 * len(turns)}")


def _print(found: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    names, cells = columns
    table = table_of(*names)
    for one in found:
        add_to(table, *cells(one))
    print_table(table, cut_last=True)
