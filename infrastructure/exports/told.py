"""An event as every form of an export tells it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from application.ports import LoggedEvent
from infrastructure.postgres.mapper import PlainJson
from infrastructure.postgres.rows import Row

Decode = Callable[[Sequence[Row]], Sequence[LoggedEvent | None]]  # None: it cannot be read
# What cannot be read any more is exported all the same: an export tells what is there.
UNREADABLE: Final = b'{"unreadable":true}'

_json: Final = PlainJson()


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it is stored, and what it says, as JSON in UTF-8."""

    row: Row
    data: bytes


def told(rows: Sequence[Row], decode: Decode) -> list[Told]:
    """Return the events of these rows, in their present shape."""
    return [
        Told(row, UNREADABLE if event is None else _json.encode(event.data))
        for row, event in zip(rows, decode(rows), strict=True)
    ]
