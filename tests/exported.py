"""A log to export, and exports read back in the plainest way."""

import csv
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from application.exporting import Selection
from infrastructure.exports.operating import write_export
from infrastructure.vault import about_event
from tests.opened import vault

FORMS = ("ndjson", "csv", "parquet")

SAID = "conversation.user_message_received"
COLUMNS = "position, recorded_at, version, stream, type, conversation, turn, actor, data"


def fill(url: str, count: int, start: int = 0) -> None:
    """Append so many events to the log, in conversations of ten, at times a second apart."""
    with psycopg.connect(url) as connection:
        connection.execute(
            """
            INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
            SELECT n, timestamptz '2026-03-01 00:00:00.000001+00' + make_interval(secs => n),
                   1 + (n - 1) %% 10,
                   'conversation-c' || (n - 1) / 10, CASE WHEN n %% 10 = 1 THEN 'conversation.started'
                        WHEN n %% 2 = 0 THEN 'conversation.user_message_received'
                        ELSE 'conversation.assistant_message_sent' END,
                   'c' || (n - 1) / 10, 't' || (n - 1) / 5, 'user:local',
                   convert_to(CASE WHEN n %% 10 = 1 THEN '{}' ELSE json_build_object(
                       'message_id', 'm' || n, 'content', 'number ' || n || repeat(' and more', n %% 40)
                   )::text END, 'UTF8')
              FROM generate_series(%(start)s + 1, %(start)s + %(count)s) AS n""",
            {"count": count, "start": start},
        )


def fill_sealed(url: str, count: int, each: int) -> None:
    """Append so many sealed events, in conversations of `each`, every one with a key of its own."""
    opener, at = vault(), datetime(2026, 3, 1, tzinfo=UTC)
    with psycopg.connect(url) as connection:
        keys = [opener.new_key(f"c{number}") for number in range(count // each)]
        with connection.cursor().copy("COPY keys.conversations (conversation, wrapped) FROM STDIN") as copy:
            for number, (_, wrapped) in enumerate(keys):
                copy.write_row((f"c{number}", wrapped))
        with connection.cursor().copy(f"COPY log ({COLUMNS}) FROM STDIN".encode()) as copy:
            for n in range(count):
                stream, version = f"conversation-c{n // each}", 1 + n % each
                data = b'{"message_id":"m%d","content":"number %d%s"}' % (n, n, b" and more" * (n % 40))
                about = about_event(stream, version, SAID)
                row = (n + 1, at, version, stream, SAID, f"c{n // each}", f"t{n}", "user:local")
                copy.write_row((*row, keys[n // each][0].seal(data, about)))


def append(url: str, datas: Iterable[Any]) -> None:
    """Append one event for each value, each the whole data of a message."""
    with psycopg.connect(url) as connection:
        connection.cursor().executemany(
            """INSERT INTO log SELECT n, now(), n, 'conversation-x', 'conversation.user_message_received',
                      'x', 'turn', 'user:local', %s FROM (SELECT position + 1 AS n FROM log_head) AS next""",
            [[data] for data in datas],
        )


def stored(url: str) -> list[tuple[Any, ...]]:
    """Read every column of the log."""
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT {COLUMNS} FROM log ORDER BY position".encode()).fetchall()


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Read NDJSON; a line ends with LF and nothing else."""
    pieces = file.read_bytes().split(b"\n")
    assert pieces.pop() == b""
    return [json.loads(piece) for piece in pieces]


def table_of(file: Path) -> list[dict[str, str]]:
    """Read CSV."""
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text, strict=True))


def manifest_of(file: Path) -> dict[str, Any]:
    """Read the manifest of an export."""
    manifest: dict[str, Any] = json.loads(file.with_name(f"{file.name}.manifest.json").read_text())
    return manifest


def positions(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [int(row["position"]) for row in rows]


def written(url: str, file: Path, form: Any, selection: Selection | None = None) -> Path:
    """Export the log to this file."""
    manifest = write_export(url, vault(), selection or Selection(), form, file)
    assert manifest
    return file


def rows_of(file: Path, form: str) -> list[dict[str, Any]]:
    """Return what a file of this form says, a row each."""
    if form == "parquet":
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return rows
    return lines_of(file) if form == "ndjson" else [dict(row) for row in table_of(file)]
