"""The command line: `minutebook`, in the order in which `--help` lists its commands."""

import asyncio
import errno
import json
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import psycopg
import typer
import uvloop
from rich.console import Console
from rich.table import Column, Table

from api import (
    cli_audit,
    cli_audit_questions,
    cli_erase,
    cli_export,
    cli_import,
    cli_projections,
    cli_verify,
    log_output,
)
from api.bootstrap.database import database
from api.bootstrap.keys import check_master_key
from api.bootstrap.models import check_settings
from api.bootstrap.operator import operator_turns
from api.bootstrap.seals import check_signing_key
from api.cli_once import CommandLine
from api.cli_tables import add_to, print_table, table_of
from api.file_limit import allow_many_files
from api.settings import Settings, SettingsError, read_settings
from api.stopping import Stop
from application.errors import InvalidFilterError
from domain.errors import MinutebookError

cli = CommandLine(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show the values of variables: keys, and what people said
    rich_markup_mode="markdown",
    help="Minutebook keeps the minutes of conversations between people and agents.",
    epilog="Start with `minutebook serve`: it brings its own PostgreSQL and a demo model.",
)
out = Console()
_GONE = ("08", "57P")  # with these an SQLSTATE begins where the connection, or the server, has ended
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")]


def main() -> None:
    """Run the command line; what is wrong is one sentence: 2 for a setting or option, 1 for anything else."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        _run()
    except (SettingsError, MinutebookError) as error:
        print(f"minutebook: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError | InvalidFilterError) else 1)
    except psycopg.Error as error:
        print(f"minutebook: The database did not do it: {_why(error)}.", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the end of the process would try again
        print(f"minutebook: What there is to say cannot be written: {error.strerror}.", file=sys.stderr)
        sys.exit(1)


def _run() -> None:
    try:
        cli()
    finally:
        with suppress(BrokenPipeError):  # nobody wants to know
            if sys.stdout:  # it can be closed from the beginning
                sys.stdout.flush()  # what is not written is said, and not lost behind an exit code of 0


def _why(error: psycopg.Error) -> str:
    """Say the kind of trouble in our words; the driver's own name hosts, users and SQL."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "its user may not (making tables takes their owner)"
    kind = f"{type(error).__name__} {error.sqlstate or ''}".strip()
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate or _GONE[0]).startswith(_GONE):
        return f"it went away ({kind}); run this again when it is back"
    return kind


def _leave(*_: object) -> None:
    """End in order wherever we are: whoever is asked to go stops the embedded PostgreSQL first."""
    sys.exit(143)


@cli.command(
    epilog="Try `minutebook serve --port 0`, or with a model: "
    "`OPENAI_API_KEY=… minutebook serve --model openai:gpt-4o`. "
    "All settings are environment variables; `minutebook doctor` lists them."
)
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on, unless set 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port, unless set 8000; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="`demo` unless set; `openai:…`, `anthropic:…`")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the embedded PostgreSQL keeps its data, unless set `.minutebook`."),
    ] = None,
    agents: Annotated[Path | None, typer.Option(help="A TOML file with agents and the policy.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="How many processes share the port, unless set 1.")
    ] = None,
) -> None:
    """Serve the API until Ctrl-C or SIGTERM; turns that run may finish, for `MINUTEBOOK_GRACE_S` seconds.

    Without `MINUTEBOOK_DATABASE_URL` it starts an embedded PostgreSQL and keeps its data between runs.
    """
    given = {"host": host, "port": port, "model": model, "data": data, "agents": agents}
    with Stop() as stop:
        settings = read_settings({**given, "workers": workers})
        log_output.configure(settings.log_level)
        check_settings(settings)
        _serve(settings, stop)
    print("Minutebook has stopped; everything that was committed is kept.", file=sys.stderr)


def _serve(settings: Settings, stop: Stop) -> None:
    from api.server import listen, serve_house  # it takes a moment, which no wrong setting has to wait for
    from api.workers import serve_workers

    allow_many_files()
    with listen(settings.host, settings.port) as sock, database(settings, is_watched=True) as url:
        stop.hold()
        on_ready = partial(_welcome, settings, sock.getsockname()[1])
        if settings.workers > 1:
            serve_workers(settings, sock, on_ready, stop)
            return
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_house(settings, url, sock, on_ready, stop))


def _welcome(settings: Settings, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{port}"
    where = "the server of MINUTEBOOK_DATABASE_URL" if settings.database_url else f"{settings.data.resolve()}"
    body = '{"message": {"type": "user_message", "content": "help"}}'
    lines = [
        "",
        f"  Minutebook serves on  {address}    (the API is described at {address}/docs)",
        f"  The data is in        {where}",
        f"  The model is          {settings.model}"
        + (" (offline, says so)" if settings.model == "demo" else ""),
        *([f"  It has                {settings.workers} workers"] if settings.workers > 1 else []),
        "",
        "  Talk to it:",
        f"    curl -N {address}/v1/messages/stream -H 'Content-Type: application/json' \\",
        f"      -d '{body}'",
        "",
        "  Ctrl-C stops it.",
        "",
    ]
    if settings.identity_header is None and settings.allow_remote:
        lines.insert(1, "  WARNING: anybody who reaches this address may read and write everything.")
    print("\n".join(lines), flush=True)


@cli.command(epilog="`serve` does the same at its start; run it by itself before many servers start at once.")
def migrate() -> None:
    """Bring the database up to date. Safe to run at any time, from any number of machines."""
    with database(read_settings()):
        out.print("The database is up to date.")


@cli.command(
    epilog="Try `minutebook turns --state failed`, or `minutebook turns --json | jq .turn`. "
    "A failed or abandoned turn is run again with `POST /v1/turns/{turn_id}/retry`."
)
def turns(
    state: Annotated[str | None, typer.Option(help="running, committed, failed or abandoned")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List turns, newest first: what runs, what failed and what a server left behind."""
    if state not in (None, "running", "committed", "failed", "abandoned"):
        raise SettingsError(f"There is no turn state {state}; it is running, committed, failed or abandoned.")
    with database(read_settings()) as url:
        rows = operator_turns(url, state, limit)
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    names = ("accepted_at", "turn", "conversation", "kind", "state", "attempt", "code")
    if not rows:
        print("There is no such turn." if state else "There are no turns yet.")
        return
    table = table_of(*names)
    for row in rows:
        add_to(table, *(row[name] or "" for name in names))
    print_table(table)


cli_projections.register(cli)
cli.command("import")(cli_import.import_conversations)
cli.command(epilog="Try `minutebook erase CONVERSATION --reason 'asked for by the person'`.")(cli_erase.erase)


@cli.command(
    epilog="Exit code 0: all is well. 2: a setting, a key or the database is wrong; "
    "the sentence on standard error says which."
)
def doctor(as_json: Json = False) -> None:
    """Check settings, agents, models, database and its keys; print every setting, but no secret.

    A database that has no keys yet gets them from the first `serve`.
    """
    settings = read_settings()
    check_settings(settings)
    values = {f"MINUTEBOOK_{name.upper()}": _as_set(value) for name, value in settings}
    with database(settings) as url, psycopg.connect(url) as connection:
        version = connection.info.server_version
        check_master_key(settings, url)
        check_signing_key(settings, url)
    if as_json:
        print(json.dumps({"settings": values, "postgresql": version // 10_000, "ok": True}))
        return
    table = Table(Column("setting", no_wrap=True), Column("value", overflow="fold"), "what it is")
    for name, field in Settings.model_fields.items():
        table.add_row(f"MINUTEBOOK_{name.upper()}", values[f"MINUTEBOOK_{name.upper()}"], field.description)
    out.print(table)
    out.print(f"PostgreSQL {version // 10_000} answers, and its tables are up to date. All is well.")


def _as_set(value: object) -> str | None:
    """Return a value as one would set it; nothing for one that is not set."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


cli_audit_questions.register(cli_audit.audit)
cli_export.register(cli_audit.audit)
cli_verify.register(cli_audit.audit)
cli.add_typer(cli_audit.audit, name="audit")
