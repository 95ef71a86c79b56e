"""The forms an export can have, written from rows: NDJSON and CSV; Parquet has a file of its own."""

import csv
import io
from binascii import b2a_base64
from collections.abc import Sequence
from datetime import UTC
from typing import Final, Protocol

from application.exporting import Format
from infrastructure.exports.told import Told
from infrastructure.postgres.mapper import PlainJson
from infrastructure.postgres.rows import Row

COLUMNS: Final = (
    "position", "recorded_at", "stream", "version", "type", "conversation", "turn", "actor", "data",
)  # fmt: skip
_json: Final = PlainJson()


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
