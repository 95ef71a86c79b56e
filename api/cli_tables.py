"""Tables on a terminal: an id is never cut, so that it can be copied."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LEAST_ROOM = 20  # columns for a last cell that gives way


def table_of(*names: str) -> Table:
    """Return a table without lines between its cells, which would not survive being broken."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="", title_justify="left", title_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def add_to(table: Table, *cells: object) -> None:
    """Add a row, letter by letter as it is: nothing in it is markup, or a command to the terminal."""
    table.add_row(*(Text(_plain(str(cell))) for cell in cells))


def print_table(table: Table, *, cut_last: bool = False) -> None:
    """Print a table as wide as its cells are: the terminal breaks a long line, and nothing is left out.

    With `cut_last` the last cell of a row takes no more than the room that the others leave.
    """
    if cut_last:
        last = table.columns[-1]
        last.min_width = last.max_width = LEAST_ROOM
        last.max_width += max(0, Console().width - _width(table))
    for line in _lines(table):
        print(line.rstrip())


def _width(table: Table) -> int:
    wide = Console(width=10_000)
    return Measurement.get(wide, wide.options, table).maximum


def _lines(table: Table) -> Iterable[str]:
    console = Console(width=max(_width(table), 1))
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def brief(value: Any) -> str:
    """Return a value as one short line that no terminal takes for a command."""
    return _plain(json.dumps(value, ensure_ascii=False)[:400])


def gist(data: Mapping[str, Any]) -> str:
    """Return what an event says as one short line, without the ids that say nothing to a person."""
    return brief({name: value for name, value in data.items() if not name.endswith("_id")} or data)


def _plain(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
