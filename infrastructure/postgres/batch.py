"""A save, and a batch of them as the one statement that appends it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

from application.ports import Closing
from infrastructure.postgres.arrays import Array, ByteaArray, Int4Array, Int8Array, TextArray

APPEND = f"SELECT * FROM append_batch({', '.join(['%b'] * 29)})"
# With the time at which its rows were written and only the commit was left.
APPEND_NUMBERED = f"SELECT *, clock_timestamp() FROM append_batch({', '.join(f'${n}' for n in range(1, 30))})"


@dataclass(slots=True)  # not frozen: that made five times the work of every event, twice a sealed one
class NewEvent:
    """An event to be appended; `data` is stored byte for byte. Nobody changes one."""

    stream: str
    version: int
    type: str
    conversation: str
    turn: str
    actor: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a stream at a version; an older one never replaces a newer one."""

    stream: str
    version: int
    state_version: int
    state: bytes


@dataclass(frozen=True, slots=True)
class NewKey:
    """The key of a conversation that begins with this save, wrapped."""

    conversation: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Save:
    """What is stored whole or not at all.

    `expected` holds for each stream the version it must be at (0: it must not exist yet). None
    says only that none of the versions to be written, nor a later one, may be there.
    """

    events: Sequence[NewEvent]
    expected: Mapping[str, int | None]
    closing: Closing | None = None
    node: str = ""
    snapshots: Sequence[Snapshot] = field(default=())
    key: NewKey | None = None

    @property
    def streams(self) -> frozenset[str]:
        """Every stream that this save reads or writes."""
        return frozenset(self.expected)

    @property
    def size(self) -> int:
        """Bytes of what is stored, about."""
        return sum(len(e.data) + 256 for e in self.events) + sum(len(s.state) for s in self.snapshots)

    def validate(self) -> None:
        """Raise `ValueError` for a save that no caller in its right mind makes."""
        by_stream = attrgetter("stream")
        for stream, events in groupby(sorted(self.events, key=by_stream), key=by_stream):
            if stream not in self.expected:
                raise ValueError(f"nothing is expected of the stream {stream}")
            expected, versions = self.expected[stream], [event.version for event in events]
            if expected is not None and versions != list(range(expected + 1, expected + 1 + len(versions))):
                raise ValueError(f"the versions of the stream {stream} do not follow {expected}")


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a save went. Positions are None where it had no event and repeats no other turn."""

    first_position: int | None
    last_position: int | None
    recorded_at: datetime


class Status(IntEnum):
    """What `append_batch` says of a save."""

    STORED = 0
    CONFLICT = 1
    FENCED = 2


def parameters(saves: Sequence[Save]) -> list[Array | None]:
    """Return the arguments of `append_batch` for these saves, in its order; None is for what none has."""
    return [
        Int4Array([len(save.events) for save in saves]),
        *_event_columns(saves),
        *_expectation_columns(saves),
        *_closing_columns(saves),
        *_snapshot_columns(saves),
        *_key_columns(saves),
    ]


def _event_columns(saves: Sequence[Save]) -> list[Array]:
    events = [event for save in saves for event in save.events]
    return [
        Int4Array([number for number, save in enumerate(saves, 1) for _ in save.events]),
        TextArray([event.stream for event in events]),
        Int4Array([event.version for event in events]),
        TextArray([event.type for event in events]),
        TextArray([event.conversation for event in events]),
        TextArray([event.turn for event in events]),
        TextArray([event.actor for event in events]),
        ByteaArray([event.data for event in events]),
    ]


def _expectation_columns(saves: Sequence[Save]) -> list[Array]:
    rows = [
        (n, stream, version, save)
        for n, save in enumerate(saves, 1)
        for stream, version in save.expected.items()
    ]
    return [
        Int4Array([number for number, _, _, _ in rows]),
        TextArray([stream for _, stream, _, _ in rows]),
        Int4Array([version for _, _, version, _ in rows]),
        Int4Array([_first(save, stream) if version is None else None for _, stream, version, save in rows]),
    ]


def _first(save: Save, stream: str) -> int | None:
    return min((event.version for event in save.events if event.stream == stream), default=None)


def _closing_columns(saves: Sequence[Save]) -> Sequence[Array | None]:
    rows = [(n, save.closing, save.node) for n, save in enumerate(saves, 1) if save.closing is not None]
    return _closings(rows) if rows else _NO_CLOSINGS


def _closings(rows: Sequence[tuple[int, Closing, str]]) -> list[Array]:
    return [
        Int4Array([number for number, _, _ in rows]),
        TextArray([closing.turn_id for _, closing, _ in rows]),
        Int4Array([closing.attempt for _, closing, _ in rows]),
        TextArray([node for _, _, node in rows]),
        Int4Array([closing.provisional_frames for _, closing, _ in rows]),
        Int8Array([closing.first_position for _, closing, _ in rows]),
        Int8Array([closing.last_position for _, closing, _ in rows]),
        ByteaArray([_json(closing.outcome) for _, closing, _ in rows]),
    ]


def _json(outcome: Mapping[str, Any] | None) -> bytes | None:
    return None if outcome is None else json.dumps(outcome, separators=(",", ":")).encode()


def _snapshot_columns(saves: Sequence[Save]) -> Sequence[Array | None]:
    rows = [(number, snapshot) for number, save in enumerate(saves, 1) for snapshot in save.snapshots]
    return _snapshots(rows) if rows else _NO_SNAPSHOTS


def _snapshots(rows: Sequence[tuple[int, Snapshot]]) -> list[Array]:
    return [
        Int4Array([number for number, _ in rows]),
        TextArray([snapshot.stream for _, snapshot in rows]),
        Int4Array([snapshot.version for _, snapshot in rows]),
        Int4Array([snapshot.state_version for _, snapshot in rows]),
        ByteaArray([snapshot.state for _, snapshot in rows]),
    ]


def _key_columns(saves: Sequence[Save]) -> Sequence[Array | None]:
    rows = [(number, save.key) for number, save in enumerate(saves, 1) if save.key is not None]
    return _keys(rows) if rows else _NO_KEYS


def _keys(rows: Sequence[tuple[int, NewKey]]) -> list[Array]:
    return [
        Int4Array([number for number, _ in rows]),
        TextArray([key.conversation for _, key in rows]),
        ByteaArray([key.wrapped for _, key in rows]),
    ]


_GROUPS = (_closings(()), _snapshots(()), _keys(()))
_NO_CLOSINGS, _NO_SNAPSHOTS, _NO_KEYS = ([None] * len(group) for group in _GROUPS)
_ALWAYS = [Int4Array(()), *_event_columns(()), *_expectation_columns(())]
TYPES = [array.oid for array in (*_ALWAYS, *chain(*_GROUPS))]  # as PostgreSQL numbers them
