"""`minutebook audit export` and `audit verify-export`: the log as files, and what they are worth."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn

from api.bootstrap.database import database
from api.bootstrap.exports import check_export, prove_export, write_export
from api.bootstrap.kept import checkpoints_in, verifiers_in
from api.cli_progress import progress
from api.exit_codes import DOES_NOT_FIT, INTERRUPTED, NOTHING_TO_COMPARE
from api.interrupting import until_interrupted
from api.settings import SettingsError, read_settings
from application.exporting import FORMATS, Checked, ExportStep, Format, Manifest, selected

JSON_PAUSE_S = 1.0  # between two lines of progress for a script

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")]
From = Annotated[str | None, typer.Option("--from", help="The first position, or the first moment.")]
Until = Annotated[
    str | None, typer.Option("--until", help="The last position, or the first moment that is too late.")
]
Conversation = Annotated[str | None, typer.Option(help="Only the events of this conversation.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="Only events of this type; `*` stands for anything.")
]
To = Annotated[Path, typer.Option("--to", help="The file to write; FILE.manifest.json comes beside it.")]


def register(audit: typer.Typer) -> None:
    """Add the commands."""
    audit.command()(export)
    audit.command("verify-export")(verify_export)


def export(
    to: To,
    form: Annotated[str, typer.Option("--format", help="ndjson, csv or parquet")] = "ndjson",
    from_place: From = None,
    until_place: Until = None,
    conversation: Conversation = None,
    types: Types = None,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Write FILE.keys, too: the wrapped keys of all conversations.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export events to a file, with a manifest that says what is in it.

    Ctrl-C stops it; the same command then goes on where it was, also after a crash. NDJSON holds the stored
    bytes too: `minutebook import` takes such a file into an empty store, with `FILE.keys` beside it and the
    same master key.
    """
    selection = selected(from_place, until_place, conversation, types or ())
    settings = read_settings()
    with (
        database(settings) as url,
        until_interrupted() as is_cancelled,
        _bar("exporting", as_json) as show,
    ):
        how = (selection, _form(form), to, _steps(show), is_cancelled)
        written = write_export(settings, url, *how, with_keys=with_keys)
    if written is None:
        _say({"phase": "interrupted"}, "Stopped; run it again to go on.", as_json)
        sys.exit(INTERRUPTED)
    told = {"phase": "written", **_told(written)}
    _say(told, f"{to}: {written.count:,} events, {_positions(written)}.", as_json)


def _form(given: str) -> Format:
    for form in FORMATS:
        if form == given:
            return form
    raise SettingsError(f"There is no format {given}; there are {', '.join(FORMATS)}.")


def _told(manifest: Manifest) -> dict[str, Any]:
    told = {name: value for name, value in manifest.as_json().items() if name != "chunks"}
    return {**told, "chunks": len(manifest.chunks)}


def verify_export(
    manifest: Annotated[Path, typer.Argument(help="FILE.manifest.json; the export has to be beside it.")],
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A file with signed checkpoints; absent: the manifest's own."),
    ] = None,
    verifiers: Annotated[Path | None, typer.Option(help="The public keys of the checkpoints.")] = None,
    as_json: Json = False,
) -> None:
    """Check an export with nothing but its manifest: exit code 0 where every byte is as it was written.

    Otherwise the first chunk that is not is named, with its positions, and the exit code is 3. With
    `--verifiers` the events of a whole log in NDJSON are hashed anew, and have to be those that were sealed:
    by the checkpoints given, or else by the one in the manifest. Where none is of what was exported, there is
    nothing to compare with, and the exit code is 4.
    """
    if checkpoints and verifiers is None:
        raise SettingsError(
            "A checkpoint needs --verifiers: a file with what `minutebook audit keys` prints."
        )
    notes, keys = checkpoints_in(checkpoints or []), verifiers_in(verifiers) if verifiers else None
    with _bar("checking", as_json) as show:
        found = check_export(manifest, lambda at, of: show("checking", at, of, 0))
    if found.reason is None and keys is not None:
        found = prove_export(manifest, notes, keys)
    is_compared = keys is None or bool(found.checkpoints)
    _say({**vars(found), "ok": found.reason is None}, _sentence(found, is_compared), as_json)
    if found.reason is not None:
        sys.exit(DOES_NOT_FIT)
    if not is_compared:
        sys.exit(NOTHING_TO_COMPARE)


def _sentence(found: Checked, is_compared: bool) -> str:
    if found.reason is None:
        exported = f"{found.count:,} events, {_positions(found)}: as they were exported."
        return exported + _sealed(found, is_compared)
    if found.chunk is None:
        return f"{found.manifest}: {found.reason}."
    return f"Chunk {found.chunk} (positions {found.first} to {found.last}): {found.reason}."


def _sealed(found: Checked, is_compared: bool) -> str:
    if not is_compared:
        return " No checkpoint is of what was exported: there was nothing to compare them with."
    if not found.checkpoints:
        return ""
    return f" Up to {max(found.checkpoints):,} their columns and `stored` are what was sealed."


def _positions(said: Manifest | Checked) -> str:
    return f"positions {said.first} to {said.last}" if said.first <= said.last else "no position"


# --- saying it ------------------------------------------------------------------------------------

Show = Callable[[str, int, int, int], None]  # what is done, how far, of how much, where it began


def _steps(show: Show) -> Callable[[ExportStep], None]:
    return lambda step: show(step.phase, step.position, step.target, step.started_at)


def _say(told: dict[str, Any], sentence: str, as_json: bool) -> None:
    print(json.dumps(told) if as_json else sentence, flush=True)


@contextmanager
def _bar(what: str, as_json: bool) -> Iterator[Show]:
    """Give what shows each step: a bar, or a line of JSON now and then."""
    began = time.monotonic()
    if as_json:
        yield _JsonLines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with progress(*columns) as bars:
        task = bars.add_task(what, said="")

        def show(phase: str, at: int, target: int, started_at: int) -> None:
            rate = (at - started_at) / max(time.monotonic() - began, 0.001)
            left = f", {(target - at) / rate:.0f} s to go" if rate > 0 else ""
            said = f"{at:,} of {target:,}, {rate:,.0f}/s{left}"
            bars.update(task, description=phase, completed=at, total=max(target, 1), said=said)

        yield show


class _JsonLines:
    """Progress for a script: a line a second."""

    def __init__(self) -> None:
        self._told_at = 0.0

    def __call__(self, phase: str, at: int, target: int, started_at: int) -> None:
        if time.monotonic() - self._told_at >= JSON_PAUSE_S:
            self._told_at = time.monotonic()
            told = {"phase": phase, "at": at, "target": target, "started_at": started_at}
            print(json.dumps(told), flush=True)
