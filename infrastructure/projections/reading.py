"""The log as the folds read it: in pages while following it, as one stream while rebuilding."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import starmap
from typing import Any, Final, cast

import psycopg
from eventsourcing.utils import resolve_topic
from psycopg import capabilities, sql

from application.ports import LoggedEvent
from infrastructure.postgres.key_store import keys_of
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.rows import Row
from infrastructure.projections.values import ERASURE, from_json
from infrastructure.vault import ERASED, SEALED, Key, Vault, about_event

COLUMNS: Final = "position, stream, version, type, conversation, turn, actor, recorded_at, data"
# At most so many events, and of big ones only as many as it takes to pass so many bytes.
_PAGE: Final = f"""
    SELECT {COLUMNS} FROM (
        SELECT {COLUMNS}, sum(octet_length(data)) OVER (ORDER BY position) - octet_length(data) AS before
          FROM (SELECT {COLUMNS} FROM log
                 WHERE position > %s AND position <= %s ORDER BY position LIMIT %s) AS l
    ) AS sized WHERE before < %s ORDER BY position"""
_RANGE: Final = f"""
    SELECT {COLUMNS} FROM log
     WHERE position > {{first}} AND position <= {{last}} AND type IN ({{types}})
       AND (hashtext(conversation) & 2147483647) % {{parts}} = {{part}}
     ORDER BY position"""
# Rows that come together, and are read twice as fast as the same from a COPY, one by one.
_TOGETHER: Final = 100 if capabilities.has_stream_chunked() else 1
PAGE_EVENTS: Final = 500
_PAGE_BYTES: Final = 4 * 1024 * 1024
_NO_LIMIT: Final = 2**63 - 1

_mapper = MinutesMapper()


class StoredEvent:
    """A `LoggedEvent` that decodes its data when somebody asks for it, once."""

    __slots__ = (
        "_data", "_text", "actor", "conversation_id", "key", "position", "raw", "recorded_at", "stream",
        "turn_id",
        "type", "version",
    )  # fmt: skip

    def __init__(
        self,
        position: int,
        stream: str,
        version: int,
        type: str,  # noqa: A002 (its name, everywhere)
        conversation: str,
        turn: str,
        actor: str,
        recorded_at: datetime,
        raw: bytes,
    ) -> None:
        self.position = position
        self.stream = stream
        self.version = version
        self.type = type
        self.conversation_id = conversation
        self.turn_id = turn
        self.actor = actor
        self.recorded_at = recorded_at
        self.raw = raw
        self.key: Key | None = None
        self._data: Mapping[str, Any] | None = None
        self._text: str | None = None

    @property
    def is_erased(self) -> bool:
        """Whether nobody can read any more what the event says."""
        return self.key is ERASED and self.raw.startswith(SEALED)

    @property
    def data(self) -> Mapping[str, Any]:
        """What the event itself says, upcast to today."""
        if self._data is None:
            self._data = self._decoded()
        return self._data

    @property
    def text(self) -> str:
        """The JSON that `data` is decoded from, in the shape it had when it was stored."""
        if self._text is None:
            raw = self.raw
            if self.key:
                raw = self.key.open(raw, about_event(self.stream, self.version, self.type))
            self._text = raw.decode()
        return self._text

    def _decoded(self) -> Mapping[str, Any]:
        data: dict[str, Any] = from_json(self.text)
        if data.pop("class_version", 1) == _present_version(self.type):
            return data
        row = Row(
            self.position, self.stream, self.version, self.type, self.conversation_id, self.turn_id,
            self.actor, self.recorded_at, self.text.encode(),
        )  # fmt: skip
        return _mapper.to_logged(row).data


# A fold sees the same attributes either way.
_event = cast("Callable[..., LoggedEvent]", StoredEvent)


@cache
def _present_version(topic: str) -> int:
    return int(getattr(resolve_topic(topic), "class_version", 1))


@dataclass(frozen=True)
class Page:
    """All events with positions above `after` and up to `last`."""

    after: int
    last: int
    events: Sequence[LoggedEvent]

    def until(self, last: int) -> "Page":
        """Return the part of the page that ends at this position."""
        return Page(self.after, last, [event for event in self.events if event.position <= last])


def readable(
    connection: psycopg.Connection, vault: Vault | None, events: Sequence[LoggedEvent]
) -> Sequence[LoggedEvent]:
    """Return those of the events that can be read, with their keys: a fold never sees an erased one."""
    if vault is None:
        return events
    stored = cast("Sequence[StoredEvent]", events)
    asked = {event.conversation_id for event in stored if event.conversation_id}
    keys = keys_of(connection, vault, asked)
    for event in stored:
        event.key = keys.get(event.conversation_id)
        if event.type == ERASURE:
            vault.forget(event.conversation_id)
    return cast("Sequence[LoggedEvent]", [event for event in stored if not event.is_erased])


def read_page(
    connection: psycopg.Connection,
    after: int,
    last: int = _NO_LIMIT,
    size: int = PAGE_EVENTS,
    vault: Vault | None = None,
) -> Page:
    """Return the next events, up to the position `last`; the page ends where it began when there are none."""
    cursor = connection.cursor(binary=True)
    cursor.execute(_PAGE.encode(), [after, last, size, _PAGE_BYTES], prepare=True)
    events = [_event(*values) for values in cursor]
    return Page(after, events[-1].position if events else after, readable(connection, vault, events))


@contextmanager
def reading_range(
    connection: psycopg.Connection, first: int, last: int, types: frozenset[str], part: int, parts: int
) -> Iterator[Iterator[LoggedEvent]]:
    """Stream the events of these types above `first` and up to `last`: one part of the conversations.

    A stream that is not read to its end keeps its connection to itself, and is closed with the block.
    """
    statement = sql.SQL(_RANGE).format(
        first=sql.Literal(first),
        last=sql.Literal(last),
        types=sql.SQL(", ").join(map(sql.Literal, sorted(types))),
        part=sql.Literal(part),
        parts=sql.Literal(parts),
    )
    stream = connection.cursor(binary=True).stream(statement, size=_TOGETHER)
    with closing(cast("Generator[tuple[Any, ...]]", stream)) as stored:
        yield starmap(_event, stored)


def head_of(connection: psycopg.Connection) -> int:
    """Return the position of the newest event, 0 for an empty log."""
    row = connection.execute("SELECT position FROM log_head").fetchone()
    return int(row[0]) if row else 0
