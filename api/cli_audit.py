"""`minutebook audit`: what happened, asked of the log without a server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from api.bootstrap.audit import open_audit
from api.bootstrap.database import database
from api.cli_once import CommandLine
from api.cli_tables import add_to, gist, print_table, table_of
from api.settings import Settings, read_settings
from application.audit import EventPage, event_said, every_page
from application.audit_filter import EventFilter, event_filter
from application.queries import Answer

audit = CommandLine(
    no_args_is_help=True,
    help="Ask the log who did what, and what was so at any time.",
    epilog="Start with `minutebook audit events --order desc`, then `minutebook audit show POSITION`.",
)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")]
Limit = Annotated[int | None, typer.Option(min=1, help="How many at most; 50 for a table, all for --json.")]
Since = Annotated[
    str | None, typer.Option("--from", help="From this time on, as 2026-03-01 or 2026-03-01T09:00 (UTC).")
]
Until = Annotated[str | None, typer.Option("--to", help="Before this time.")]
FOR_PEOPLE = 50


@audit.command(
    epilog="Try `minutebook audit events --type 'conversation.tool_*' --actor user:ada --order desc`, or "
    "`minutebook audit events --text refund --json | jq .position`."
)
def events(
    conversation: Annotated[str | None, typer.Option(help="The id of a conversation.")] = None,
    stream: Annotated[str | None, typer.Option(help="conversation-ID or agent-ID")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="A type, `*` for anything; may be given again.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="user:SUBJECT, agent:NAME or system")] = None,
    agent: Annotated[
        str | None,
        typer.Option(help="An agent's name: what it did itself; with --actor, what that one did about it."),
    ] = None,
    tool: Annotated[str | None, typer.Option(help="What became of the calls of a tool.")] = None,
    turn: Annotated[str | None, typer.Option(help="The id of a turn.")] = None,
    since: Since = None,
    until: Until = None,
    after: Annotated[int | None, typer.Option(help="Only after this position.")] = None,
    before: Annotated[int | None, typer.Option(help="Only before this position.")] = None,
    text: Annotated[str | None, typer.Option(help="Looked for in what the events say, in any case.")] = None,
    order: Annotated[str, typer.Option(help="asc or desc")] = "asc",
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List the events that fit all that is given."""
    wanted = event_filter(
        conversation=conversation,
        stream=stream,
        types=types or (),
        actor=actor,
        agent=agent,
        tool=tool,
        turn=turn,
        since=since,
        until=until,
        after=after,
        before=before,
        text=text,
        order=order,
    )
    show_events(wanted, limit, as_json)


def show_events(wanted: EventFilter, limit: int | None, as_json: bool) -> None:
    """Print what is wanted: lines of JSON as they are found, or a table."""
    settings = read_settings()
    with database(settings) as url:
        asyncio.run(_print_events(settings, url, wanted, limit, as_json))


async def _print_events(
    settings: Settings, url: str, wanted: EventFilter, limit: int | None, as_json: bool
) -> None:
    async with open_audit(settings, url, is_caught_up=wanted.tool is not None) as desk:
        if as_json:
            async for page in every_page(desk.log, wanted, limit):
                for event in page.value.events:
                    say(event_said(event))
        else:
            await _print_table(every_page(desk.log, wanted, limit or FOR_PEOPLE), wanted, limit or FOR_PEOPLE)


async def _print_table(pages: AsyncIterator[Answer[EventPage]], wanted: EventFilter, limit: int) -> None:
    table, last, count = table_of("position", "recorded at", "actor", "conversation", "type", "what"), None, 0
    async for page in pages:
        for event in page.value.events:
            count, last = count + 1, event.position
            when = event.recorded_at.isoformat(timespec="seconds")
            kind, what = event.type.partition(".")[2], gist(event.data)
            add_to(table, event.position, when, event.actor, event.conversation_id, kind, what)
    print_table(table, cut_last=True)
    if count == limit:
        print(f"There may be more: {'--before' if wanted.newest_first else '--after'} {last}")


def say(told: Any) -> None:
    """Print one line of JSON."""
    from api.reading import encoded  # with it comes the web framework

    print(encoded(told).decode(), flush=False)
