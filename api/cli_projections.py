"""`minutebook rebuild` and `minutebook projections`: the read models, built anew, compared and listed."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, TextColumn

from api.bootstrap.database import database
from api.bootstrap.projections import (
    Difference,
    list_projections,
    projection_names,
    rebuild_projection,
    verify_projection,
)
from api.bootstrap.projections import Progress as Step
from api.cli_progress import progress
from api.cli_tables import add_to, print_table, table_of
from api.exit_codes import DOES_NOT_FIT, INTERRUPTED
from api.interrupting import until_interrupted
from api.settings import Settings, read_settings
from domain.errors import MinutebookError

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts.")]
JSON_PAUSE_S = 1.0  # between two lines of progress for a script


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(projections)
    cli.command()(rebuild)


def projections(as_json: Json = False) -> None:
    """List the read models: how far each has got, which has stopped, and at which event."""
    with database(read_settings()) as url:
        rows = list_projections(url)
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = table_of("projection", "version", "position", "lag", "state", "failed at", "error")
    for row in rows:
        values = (row["name"], row["version"], row["position"], row["lag"], _state(row))
        add_to(table, *values, row["failed_position"] or "", row["error"] or "")
    print_table(table)


def _state(row: dict[str, Any]) -> str:
    if row["rebuild_target"] is None:
        return str(row["state"])
    return f"{row['state']}; rebuild at {row['rebuilt']} of {row['rebuild_target']}"


def rebuild(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all where none is named.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Only compare, name what differs.")] = False,
    as_json: Json = False,
) -> None:
    """Build read models anew from the log while everything goes on, and put them in place at once.

    Ctrl-C stops it; the same command then goes on where it was. `--verify` changes nothing, and ends with
    exit code 3 where a row is not what the log says.
    """
    one = _verify if verify else _rebuild
    try:
        chosen = projection_names(names or [])
    except MinutebookError as error:
        _refuse(error, as_json, 2)
    settings, is_well = read_settings(), True
    with database(settings) as url, until_interrupted() as is_cancelled:
        try:
            for name in chosen:
                with _bar(name, as_json) as show:
                    if not one(settings, url, name, show, is_cancelled, as_json):
                        is_well = False
                if is_cancelled() and not is_well:
                    sys.exit(INTERRUPTED)
        except MinutebookError as error:
            _refuse(error, as_json, 1)
    if not is_well:
        sys.exit(DOES_NOT_FIT)


def _refuse(error: MinutebookError, as_json: bool, code: int) -> NoReturn:
    _say({"error": error.code, "message": str(error)}, f"minutebook: {error}", as_json, sys.stderr)
    sys.exit(code)


def _rebuild(
    settings: Settings,
    url: str,
    name: str,
    show: Callable[[Step], None],
    is_cancelled: Callable[[], bool],
    as_json: bool,
) -> bool:
    started = time.monotonic()
    position = rebuild_projection(settings, url, name, show, is_cancelled)
    if position < 0:
        _say({"projection": name, "phase": "interrupted"}, f"{name}: stopped; run it again to go on", as_json)
        return False
    seconds = time.monotonic() - started
    told = {"projection": name, "phase": "swapped", "position": position, "seconds": round(seconds, 3)}
    _say(told, f"{name}: built anew up to position {position} in {seconds:.1f} s", as_json)
    return True


def _verify(
    settings: Settings,
    url: str,
    name: str,
    show: Callable[[Step], None],
    is_cancelled: Callable[[], bool],
    as_json: bool,
) -> bool:
    def tell(it: Difference) -> None:
        told = {
            "projection": name,
            "table": it.table,
            "key": it.key,
            "answered": it.answered,
            "folded": it.folded,
        }
        _say(told, f"{it.table} {it.key}: {_what_differs(it)}", as_json)

    verified = verify_projection(settings, url, name, show, is_cancelled, tell)
    if verified is None:
        return False
    told = {"projection": name, "position": verified.position, "differences": verified.differences}
    what = f"{verified.differences} rows differ" if verified.differences else "every row is as the log says"
    _say(told, f"{name}: {what}, at position {verified.position}", as_json)
    return not verified.differences


def _what_differs(it: Difference) -> str:
    if it.answered is None or it.folded is None:
        return "is missing" if it.answered is None else "should not be there"
    both = ((column, it.answered[column], value) for column, value in it.folded.items())
    return ", ".join(
        f"{column} is {is_!r}, should be {should!r}" for column, is_, should in both if is_ != should
    )


def _say(told: dict[str, Any], sentence: str, as_json: bool, file: Any = None) -> None:
    print(json.dumps(told) if as_json else sentence, file=None if as_json else file, flush=True)


@contextmanager
def _bar(name: str, as_json: bool) -> Iterator[Callable[[Step], None]]:
    """Give what shows each step: a bar, or a line of JSON now and then."""
    rate = _Rate()
    if as_json:
        yield lambda step: _print_step(step, rate)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with progress(*columns) as bars:
        task = bars.add_task(name, said="")

        def show(step: Step) -> None:
            said = f"{step.phase}, {step.position:,} of {step.target:,}, {rate.sentence(step)}"
            bars.update(task, completed=step.position, total=max(step.target, 1), said=said)

        yield show


class _Rate:
    """How fast it goes since it began, and how long it will take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.told_at = 0.0

    def of(self, step: Step) -> tuple[float, float | None]:
        """Return events a second, and seconds to go."""
        rate = (step.position - step.started_at) / max(time.monotonic() - self._began, 0.001)
        return rate, (step.target - step.position) / rate if rate > 0 else None

    def sentence(self, step: Step) -> str:
        rate, eta = self.of(step)
        lag = f"{step.target - step.position:,} behind"
        return f"{rate:,.0f} events/s, {lag}" + (f", {eta:.0f} s to go" if eta is not None else "")


def _print_step(step: Step, rate: _Rate) -> None:
    now = time.monotonic()
    if now - rate.told_at < JSON_PAUSE_S and step.phase == "loading":
        return
    rate.told_at = now
    speed, eta = rate.of(step)
    told = {
        "projection": step.name, "phase": step.phase, "position": step.position, "target": step.target,
        "lag": step.target - step.position, "events_per_s": round(speed),
        "eta_s": None if eta is None else round(eta, 1),
    }  # fmt: skip
    print(json.dumps(told), flush=True)
