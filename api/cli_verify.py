"""`minutebook audit checkpoint | verify | keys | rotate-key`: what was sealed, and whether it still holds."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from api.bootstrap.database import database
from api.bootstrap.kept import checkpoints_in, largest_in, verifiers_in
from api.bootstrap.seals import Verified, checkpoint_notes, public_keys, rotate_signing_key, verify_log
from api.cli_progress import progress
from api.exit_codes import DOES_NOT_FIT, NOT_SEALED, NOTHING_TO_COMPARE
from api.settings import Settings, SettingsError, read_settings

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")]
JSON_PAUSE_S = 1.0  # between two lines of progress for a script
# So old the oldest event may be that is not sealed, or so many times MINUTEBOOK_SEAL_S, whichever is more.
LATE_S, LATE_INTERVALS = 60.0, 20


def register(audit: typer.Typer) -> None:
    """Add the commands."""
    audit.command(
        epilog="Keep an exported checkpoint on another machine: `minutebook audit checkpoint > newest.note`"
    )(checkpoint)
    audit.command(
        epilog="Exit code 0: everything fits. 3: something does not, and standard output says what. "
        "4: nothing was sealed or exported that it could be compared with. "
        "5: what is sealed fits, but the newest events have not been sealed for more than a minute."
    )(verify)
    audit.command()(keys)
    audit.command("rotate-key")(rotate_key)


def checkpoint(
    export: Annotated[
        Path | None, typer.Option(help="Write it to this file, or - for standard output.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All checkpoints, not only the newest.")] = False,
) -> None:
    """Print the newest signed checkpoint of the log, to be kept where nobody here can change it."""
    with database(read_settings()) as url:
        notes = "\n".join(checkpoint_notes(url, everything=everything))
    if not notes:
        print("minutebook: Nothing is sealed yet.", file=sys.stderr)
        sys.exit(NOTHING_TO_COMPARE)
    if export is None or str(export) == "-":
        print(notes, end="")
        return
    _keep(export, notes)
    print(f"Written to {export}.")


def _keep(export: Path, notes: str) -> None:
    """Write checkpoints to a file, unless it has one of a longer log: that may be all that tells of it."""
    try:
        kept = largest_in(export.read_text(errors="replace")) if export.is_file() else 0
        if kept > largest_in(notes):
            sentence = (
                f"{export} has a checkpoint of {kept} events, and the newest here is of {largest_in(notes)}"
            )
            print(
                f"minutebook: {sentence}: the log may have been put back; nothing was written.",
                file=sys.stderr,
            )
            sys.exit(DOES_NOT_FIT)
        export.write_text(notes)
    except OSError as error:
        raise SettingsError(f"{export} cannot be written: {error.strerror}.") from None


def verify(
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A file with exported checkpoints; repeatable.")
    ] = None,
    verifiers: Annotated[
        Path | None, typer.Option(help="A file with the public keys, instead of the one beside the key.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hash the whole log anew and compare it with everything that was sealed; changes nothing.

    Says what was checked, and names the first position that does not fit.
    """
    settings = read_settings()
    files = checkpoints_in(checkpoints or [])
    listed = verifiers_in(verifiers) if verifiers else None
    started = time.monotonic()
    with database(settings) as url, _bar(as_json) as show:
        found = verify_log(url, settings, files, listed, show)
    is_late = found.unsealed_s > max(LATE_S, LATE_INTERVALS * settings.seal_s)
    _tell(found, time.monotonic() - started, as_json, is_late)
    if not found.is_good:
        sys.exit(DOES_NOT_FIT)
    if not found.is_compared:
        sys.exit(NOTHING_TO_COMPARE)
    if is_late:
        sys.exit(NOT_SEALED)


def _tell(found: Verified, seconds: float, as_json: bool, is_late: bool) -> None:
    if as_json:
        told = {**_told(found), "sealing_stopped": is_late}
        print(json.dumps({"phase": "done", **told, "seconds": round(seconds, 3)}))
        return
    rate = f"{found.events / seconds:,.0f} a second" if seconds else "at once"
    print(f"{found.events:,} events up to position {found.head:,} hashed anew in {seconds:.1f} s ({rate}).")
    print(f"{found.tiles:,} tiles and {found.checkpoints:,} checkpoints compared, up to {found.sealed:,}.")
    if found.unsealed_since:
        print(f"{_unsealed(found)}: they can still be changed unseen.")
    print(f"{found.exported:,} exported checkpoints compared.")
    for one in found.findings:
        print(f"  position {one.position:,}: {one.what}.")
    if found.more:
        print(f"  … and {found.more:,} more.")
    print(_verdict(found, is_late))


def _unsealed(found: Verified) -> str:
    since = f"{found.unsealed_since:%Y-%m-%d %H:%M:%S} UTC"
    return f"{found.head - found.sealed:,} events, the first of {since}, are not sealed yet"


def _verdict(found: Verified, is_late: bool) -> str:
    if found.findings:
        return f"THE LOG DOES NOT FIT. The first position that does not: {found.findings[0].position:,}."
    if not found.is_compared:
        return "Positions and versions are whole, but nothing was sealed that they could be compared with."
    if is_late:
        return f"What is sealed fits, but THE SEALING HAS STOPPED: {_unsealed(found)}."
    if not found.exported:
        return (
            "Everything fits. (That it was put back to an older state only an exported checkpoint can show.)"
        )
    return "Everything fits."


def _told(found: Verified) -> dict[str, Any]:
    return {
        "ok": found.is_good,
        "compared": found.is_compared,
        "events": found.events,
        "head": found.head,
        "sealed": found.sealed,
        "unsealed": max(found.head - found.sealed, 0),
        "unsealed_since": found.unsealed_since.isoformat() if found.unsealed_since else None,
        "tiles": found.tiles,
        "checkpoints": found.checkpoints,
        "exported": found.exported,
        "first_bad_position": found.findings[0].position if found.findings else None,
        "findings": [{"position": one.position, "what": one.what} for one in found.findings],
        "more_findings": found.more,
    }


@contextmanager
def _bar(as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """Give what shows how far it is: a bar for people, a line a second for scripts."""
    if as_json:
        yield _JsonSteps().show
        return
    percent = TextColumn("{task.percentage:.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
    with progress(*columns) as bars:
        task = bars.add_task("verifying", total=None)

        def show(position: int, head: int) -> None:
            bars.update(task, completed=position, total=head, description=f"position {position:,}")

        yield show


class _JsonSteps:
    def __init__(self) -> None:
        self._next = 0.0

    def show(self, position: int, head: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + JSON_PAUSE_S
            print(json.dumps({"phase": "verifying", "position": position, "head": head}), flush=True)


def keys() -> None:
    """Print the public keys that checkpoints are verified with, as `verify --verifiers` takes them."""
    for line in public_keys(read_settings()):
        print(line)


def rotate_key(as_json: Json = False) -> None:
    """Sign checkpoints with a new key from now on; the old public key stays in the list.

    Also where the old key is lost. A running server goes on with the new key by itself.
    """
    settings: Settings = read_settings()
    with database(settings) as url:
        done = rotate_signing_key(url, settings)
    told = {"verifier": done.verifier.vkey, "size": done.size, "handed_over": done.is_handed_over}
    if as_json:
        print(json.dumps(told))
        return
    how = (
        "The old key has signed that, too."
        if done.is_handed_over
        else "The old key was not there to sign that."
    )
    print(f"From size {done.size} on checkpoints are signed with\n  {done.verifier.vkey}\n{how}")
