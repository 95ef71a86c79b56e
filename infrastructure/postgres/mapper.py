"""Events to rows and back: what is a column is not repeated in the bytes, old shapes are upcast."""

import json
from dataclasses import fields
from functools import cache
from keyword import iskeyword
from typing import Any, Final, cast

from eventsourcing.persistence import Mapper, StoredEvent, Transcoder
from eventsourcing.utils import get_topic, resolve_topic

from application.ports import LoggedEvent
from domain.aggregate import MinuteEvent, MinuteStarted
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.rows import Row
from infrastructure.vault import ERASED_DATA

# What every event carries in a column of the log (or, the aggregate's topic, in its stream's prefix).
HEADER: Final = frozenset(
    {"originator_id", "originator_version", "originator_topic", "timestamp", "actor", "turn_id"}
)


class PlainJson(Transcoder):
    """JSON and nothing but JSON: what a tool answered comes back as it was, whatever its keys.

    The library's own transcoder gives the keys `_type_` and `_data_` a meaning, and a tool result
    with exactly these two could then be stored but never read again.
    """

    def __init__(self) -> None:
        self._compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        self._escaped = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

    def encode(self, obj: Any) -> bytes:
        """Encode as compact UTF-8; raises ValueError for NaN, TypeError for what JSON has no form for."""
        try:
            return self._compact.encode(obj).encode()
        except UnicodeEncodeError:  # half a surrogate pair, as models send them: only escapes can hold it
            return self._escaped.encode(obj).encode()

    def decode(self, data: bytes) -> Any:
        """Decode what `encode` returned; integers of any size come back exactly."""
        return json.loads(data)


class MinutesMapper(Mapper[str]):
    """Turns events into rows of the log and rows into events, upcast by the library's mechanism.

    An upcast method (`upcast_vN_vM`) sees the event's own fields as they are stored, not its
    signature. A field whose name is a Python keyword is stored without its trailing underscore.
    An event's timestamp is, once stored, the time at which the log recorded it.
    """

    def __init__(self) -> None:
        super().__init__(PlainJson())

    def to_new_event(self, event: MinuteEvent) -> NewEvent:
        """Return the row to append for an event that was just recorded."""
        data = own_fields(event)
        class_version = getattr(event, "class_version", 1)
        if class_version > 1:
            data["class_version"] = class_version
        stream = event.originator_id
        return NewEvent(
            stream=stream,
            version=event.originator_version,
            type=get_topic(type(event)),
            conversation=stream.partition("-")[2],
            turn=event.turn_id,
            actor=event.actor,
            data=self.transcoder.encode(data),
        )

    def to_event(self, row: Row) -> MinuteEvent:
        """Return the event of a row, in its present shape."""
        stored = StoredEvent(row.stream, row.version, row.type, row.data)
        event = cast("MinuteEvent", self.to_domain_event(stored))
        values = vars(event)
        for name, stored_name in _stored_names(type(event)):
            if name != stored_name:
                values[name] = values.pop(stored_name)
        values.update(timestamp=row.recorded_at, actor=row.actor, turn_id=row.turn)
        if isinstance(event, MinuteStarted):
            values["originator_topic"] = row.stream.partition("-")[0]
        return event

    def to_logged(self, row: Row) -> LoggedEvent:
        """Return a row as it is shown to the world: its data in its present shape, unadorned."""
        return LoggedEvent(
            row.position,
            row.stream,
            row.version,
            row.type,
            row.conversation,
            row.turn,
            row.actor,
            row.recorded_at,
            self._shown(row),
        )

    def _shown(self, row: Row) -> dict[str, Any]:
        data: dict[str, Any] = self.transcoder.decode(row.data)
        if row.data == ERASED_DATA:
            return data
        stored_version = data.pop("class_version", 1)
        if stored_version == getattr(resolve_topic(row.type), "class_version", 1):
            return data
        return own_fields(self.to_event(row))


def own_fields(event: MinuteEvent) -> dict[str, Any]:
    """Return what the event itself says, as it is stored, without what every event carries."""
    values = vars(event)
    return {stored_name: values[name] for name, stored_name in _stored_names(type(event))}


def field_names(event_class: type[MinuteEvent]) -> list[str]:
    """Return the names of all the fields of the class (a metaclass makes it a dataclass)."""
    return [field.name for field in fields(cast("Any", event_class))]


def stored_fields(event_class: type[MinuteEvent]) -> tuple[str, ...]:
    """Return the names under which the class's own fields are stored."""
    return tuple(stored_name for _, stored_name in _stored_names(event_class))


@cache
def _stored_names(event_class: type[MinuteEvent]) -> tuple[tuple[str, str], ...]:
    own = [name for name in field_names(event_class) if name not in HEADER]
    return tuple((name, name[:-1] if iskeyword(name[:-1]) else name) for name in own)
