"""The forms an export can have, written from rows: NDJSON and CSV; Parquet has a file of its own."""

import csv
import io
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final, Protocol

from application.exporting import Format
from application.ports import LoggedEvent
from infrastructure.postgres.log import Row
from infrastructure.postgres.mapper import PlainJson

Decode = Callable[[Sequence[Row]], Sequence[LoggedEvent | None]]  # None: it cannot be read
COLUMNS: Final = (
    "position", "recorded_at", "stream", "version", "type", "conversation", "turn", "actor", "data",
)  # fmt: skip
# What cannot be read any more is exported all the same: an export tells what is there.
UNREADABLE: Final = b'{"unreadable":true}'

_json: Final = PlainJson()


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it is stored, and what it says, as JSON in UTF-8."""

    row: Row
    data: bytes


class Encoder(Protocol):
    """Turns events into the bytes of one file: `begin`, `encode` as often as it takes, `end`."""

    def begin(self) -> bytes:
        """Return what comes before the first event."""

    def encode(self, events: Sequence[Told]) -> bytes:
        """Return these events, or nothing yet."""

    def end(self) -> bytes:
        """Return what comes after the last event."""


def encoder(form: Format) -> Encoder:
    """Return what writes this form."""
    if form == "ndjson":
        return NdjsonEncoder()
    if form == "csv":
        return CsvEncoder()
    from infrastructure.exports.parquet import ParquetEncoder  # a large library

    return ParquetEncoder()


def told(rows: Sequence[Row], decode: Decode) -> list[Told]:
    """Return the events of these rows, in their present shape."""
    return [
        Told(row, UNREADABLE if event is None else _json.encode(event.data))
        for row, event in zip(rows, decode(rows), strict=True)
    ]


def instant(row: Row) -> str:
    """Return when it was recorded, in UTC, with microseconds."""
    return row.recorded_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class NdjsonEncoder:
    """A JSON object a line: every column, what the event says, and its stored bytes."""

    def begin(self) -> bytes:
        return b""

    def encode(self, events: Sequence[Told]) -> bytes:
        return b"".join(map(self._line, events))

    def end(self) -> bytes:
        return b""

    def _line(self, event: Told) -> bytes:
        row = event.row
        columns = {
            "position": row.position,
            "stream": row.stream,
            "version": row.version,
            "type": row.type,
            "conversation": row.conversation,
            "turn": row.turn,
            "actor": row.actor,
            "recorded_at": instant(row),
        }
        head, stored = _json.encode(columns)[:-1], b2a_base64(row.data, newline=False)
        return b'%b,"data":%b,"stored":"%b"}\n' % (head, event.data, stored)


class CsvEncoder:
    """A table as RFC 4180 has it, in UTF-8: a line of names, CRLF, quotes where they are needed."""

    def begin(self) -> bytes:
        return self._lines([COLUMNS])

    def encode(self, events: Sequence[Told]) -> bytes:
        return self._lines([self._values(event) for event in events])

    def end(self) -> bytes:
        return b""

    def _values(self, event: Told) -> tuple[object, ...]:
        row = event.row
        return (
            row.position, instant(row), row.stream, row.version, row.type, row.conversation, row.turn,
            row.actor, event.data.decode(),
        )  # fmt: skip

    def _lines(self, lines: Sequence[Sequence[object]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(lines)
        return text.getvalue().encode()
