"""What is written through COPY is read back as it was, whatever is in it."""

from datetime import UTC, datetime
from struct import pack
from typing import Any, ClassVar

import psycopg
import pytest

from infrastructure.projections.copying import cleaned
from infrastructure.projections.read_model import Row, Rows, Table
from infrastructure.projections.writing import Store

VALUES = Table(
    "read_values",
    {"id": "bigint", "text": "text", "other": "text", "numbers": "int[]", "seen_at": "timestamptz"},
    ("id",),
)
ODD = [
    "",
    "\\",
    "\\N",
    "\\.",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\x1d",
    "\x1e",
    "\x1f",
    "\0",
    "\ud800",
    "é\u2028",
    "日",
]
PLAIN = ["plain"] * 150  # more rows than are written together


class Values:
    """A read model for its table alone."""

    name: ClassVar[str] = "values"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (VALUES,)
    types: ClassVar[frozenset[str]] = frozenset()

    def keys(self, _: Any) -> list[Any]:
        return []

    def fold(self, rows: Rows, _: Any) -> None:
        raise NotImplementedError


def row(number: int, text: str | None) -> Row:
    other = None if number % 2 else text
    some = [(4, each) for each in (number, -(2**31), 2**31 - 1)] if number % 2 else []
    numbers = None if number % 3 else b"".join(pack("!ii", *each) for each in some)
    return {"id": number, "text": text, "other": other, "numbers": numbers, "seen_at": at(number)}


def at(second: int) -> datetime:
    return datetime.fromtimestamp(second + second / 1_000_000, UTC)


@pytest.mark.parametrize("odd", [[None], *([text] for text in ODD), [*ODD, None]], ids=ascii)
def test_all_values_come_back(database_url: str, odd: list[str | None]) -> None:
    written = [row(number, text) for number, text in enumerate([*PLAIN, *odd, *PLAIN])]
    with psycopg.connect(database_url, options="-c timezone=UTC") as connection:
        store, rows = Store(Values()), Rows()
        store.create(connection)
        for one in written:
            rows.put(VALUES, one)
        store.bulk_write(connection, rows)
        found = store.load(connection, rows.changed)
    for one in written:
        texts = {name: one[name] and cleaned(one[name]) for name in ("text", "other")}
        assert found[VALUES.name, (one["id"],)] == one | texts
    assert len(found) == len(written)
