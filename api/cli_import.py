"""`minutebook import FILE`: conversations from elsewhere, into the log."""

import asyncio
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
import uvloop
from rich.progress import BarColumn, TextColumn

from api.bootstrap.database import database
from api.bootstrap.exports import is_export, restore_export
from api.bootstrap.imports import open_import_log
from api.bootstrap.models import roster_of
from api.cli_progress import progress
from api.settings import Settings, SettingsError, read_settings
from application.chats import read_chats
from application.errors import AgentNotFoundError, InvalidJsonError, StoreUnavailableError
from application.importing import Importing, ImportLog, NotImportableError
from application.protocol import SUBJECT_RULE, is_subject
from domain.errors import MinutebookError

AT_ONCE = 64
_GONE = (
    "minutebook: The database does not answer any more; import the file again, which adds what is not there."
)


def import_conversations(
    file: Annotated[
        Path, typer.Argument(help="JSON, or JSON Lines with a conversation a line; `-` is stdin.")
    ],
    subject: Annotated[str, typer.Option(help="Whose the conversations become.")] = "local",
    agent: Annotated[str, typer.Option(help="The agent that has spoken in them.")] = "orchestrator",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end, for scripts.")] = False,
) -> None:
    """Import conversations: `{"id"?, "messages": [{"role", "content", …}]}`, as OpenAI's chats have them.

    A file that `minutebook audit export` wrote as NDJSON becomes the log of an empty store, whole or not at
    all; `--subject` and `--agent` do not count then.

    Each conversation is stored whole or not at all. Importing the same file again adds nothing. What
    cannot be read is reported with its number, and the rest is imported; the exit code is then 1.
    """
    if is_export(file):
        _restore(file, as_json)
        return
    if not is_subject(subject):
        raise SettingsError(f"Nobody can be called {subject[:80]!r}: {SUBJECT_RULE}.")
    counts = {"imported": 0, "already_there": 0, "bad": 0, "events": 0}
    settings = read_settings()
    _refuse_unknown_agent(agent, settings)
    with _opened(file) as opened:
        chats = _chats(file, opened)
        with database(settings) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(_import(settings, url, chats, Importing(subject, agent), counts))
            except StoreUnavailableError:
                print(_GONE, file=sys.stderr)
                raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(counts))
    else:
        print(
            "{imported} imported ({events} events), {already_there} already there, {bad} bad.".format(
                **counts
            )
        )
    if counts["bad"]:
        raise typer.Exit(1)


def _restore(file: Path, as_json: bool) -> None:
    columns = (TextColumn("taking in"), BarColumn(), TextColumn("{task.fields[events]:,} events"))
    settings = read_settings()
    with (
        database(settings) as url,
        progress(*columns) as bars,
    ):
        bar = bars.add_task("", events=0)
        count = restore_export(
            settings,
            url,
            file,
            lambda events, at, of: bars.update(bar, events=events, completed=at, total=of),
        )
    print(json.dumps({"restored": count}) if as_json else f"{count:,} events, as they were exported.")


def _refuse_unknown_agent(agent: str, settings: Settings) -> None:
    """Raise `SettingsError` for an agent that nobody has: what it has begun could not go on."""
    try:
        roster_of(settings).get(agent)
    except AgentNotFoundError as error:
        raise SettingsError(str(error)) from None


def _opened(file: Path) -> BinaryIO:
    try:
        return sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}.") from None


def _chats(file: Path, opened: BinaryIO) -> Iterator[tuple[int, Any]]:
    try:
        return read_chats(opened)
    except MinutebookError as error:
        raise SettingsError(f"{file} cannot be read. {error}") from None


async def _import(
    settings: Settings,
    url: str,
    chats: Iterator[tuple[int, Any]],
    importing: Importing,
    counts: dict[str, int],
) -> None:
    columns = (TextColumn("importing"), BarColumn(), TextColumn("{task.fields[count]:,} conversations"))
    async with open_import_log(settings, url) as log:
        with progress(*columns) as bars:
            bar, count = bars.add_task("", total=None, count=0), 0
            while some := list(islice(chats, AT_ONCE)):
                await asyncio.gather(*(_one(chat, importing, log, counts) for chat in some))
                count += len(some)
                bars.update(bar, count=count)


async def _one(chat: tuple[int, Any], importing: Importing, log: ImportLog, counts: dict[str, int]) -> None:
    number, value = chat
    try:
        if isinstance(value, MinutebookError):
            raise value
        conversation, agent = importing.said_again(value)
        events = len(conversation.pending_events) + len(agent.pending_events)
        is_new = await log.store(conversation, agent)
    except (InvalidJsonError, NotImportableError) as error:
        counts["bad"] += 1
        print(f"{number}: {error}", file=sys.stderr)
    else:
        counts["imported" if is_new else "already_there"] += 1
        counts["events"] += events if is_new else 0
