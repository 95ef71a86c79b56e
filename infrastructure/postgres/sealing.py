"""Rows of the log, sealed before they are appended and opened after they were read."""

from dataclasses import replace

from infrastructure.postgres.batch import NewEvent, Snapshot
from infrastructure.postgres.rows import Row
from infrastructure.vault import DataKey, Key, about_event, about_snapshot


def sealed(event: NewEvent, key: DataKey) -> NewEvent:
    """Return the event with its data sealed, together with its place in the log."""
    data = key.seal(event.data, about_event(event.stream, event.version, event.type))
    return NewEvent(
        event.stream, event.version, event.type, event.conversation, event.turn, event.actor, data
    )


def opened(row: Row, key: Key) -> Row:
    """Return the row with its data as it was before it was sealed. Raises `StoredDataError`."""
    data = key.open(row.data, about_event(row.stream, row.version, row.type))
    place = (row.position, row.stream, row.version, row.type, row.conversation, row.turn, row.actor)
    return Row(*place, row.recorded_at, data)


def sealed_snapshot(snapshot: Snapshot, key: DataKey) -> Snapshot:
    """Return the snapshot with its state sealed."""
    return replace(
        snapshot, state=key.seal(snapshot.state, about_snapshot(snapshot.stream, snapshot.version))
    )


def opened_snapshot(row: Row, key: Key) -> bytes:
    """Return the state of a loaded snapshot as it was before it was sealed. Raises `StoredDataError`."""
    return key.open(row.data, about_snapshot(row.stream, row.version))
