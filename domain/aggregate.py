"""What both aggregates share: every event names its actor and its turn."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from inspect import isclass
from typing import Any, ClassVar, Self

from eventsourcing.domain import (
    BaseAggregate,
    CanInitAggregate,
    CanMutateAggregate,
    MetaDomainEvent,
    decorated_funcs,
)


@dataclass(frozen=True)
class By:
    """Who does something, and in which turn: the signature under every event."""

    actor: str
    turn_id: str


class MinuteEvent(CanMutateAggregate[str], metaclass=MetaDomainEvent):
    """One line of the minutes: what happened to one aggregate, signed.

    The stored name of an event is its `TOPIC`, chosen by hand. A changed event raises
    `class_version` and keeps an `upcast_vN_vM` static method for what is already stored.
    """

    originator_id: str
    originator_version: int
    timestamp: datetime
    actor: str
    turn_id: str


class MinuteStarted(MinuteEvent, CanInitAggregate[str]):
    """The first event of a stream."""

    originator_topic: str


class SignedAggregate(BaseAggregate[str]):
    """An aggregate whose events are signed and whose state is small and JSON-able."""

    # Raised when the kept state changes shape: older snapshots are then ignored, not misread.
    STATE_VERSION: ClassVar[int] = 1

    class Event(MinuteEvent):
        """The base of the aggregate's own events."""

    class Started(Event, MinuteStarted):
        """The base of the aggregate's own first event."""

    def __init_subclass__(cls, **given: Any) -> None:
        """Let parts of an aggregate be classes of their own, with events and consequences.

        The library gives each class events of its own, derived from those it inherits, and looks for the
        method under `@event` by the class itself.
        """
        super().__init_subclass__(**given)
        for kind in filter(isclass, vars(cls).values()):
            for method in [decorated_funcs[one] for one in kind.__mro__ if one in decorated_funcs][:1]:
                decorated_funcs.setdefault(kind, method)

    def record(self, event: type[CanMutateAggregate[str]], by: By, **fields: Any) -> None:
        """Trigger one event, signed by its actor and turn."""
        self.trigger_event(event, actor=by.actor, turn_id=by.turn_id, **fields)

    def kept_state(self) -> dict[str, Any]:
        """Return what a snapshot keeps: all that later decisions read, JSON-able."""
        state = dict(vars(self))
        for name in ("_id", "_version", "_pending_events", "_created_on", "_modified_on"):
            state.pop(name)
        return {name: plain(value) for name, value in state.items()}

    @classmethod
    def from_kept_state(cls, stream: str, version: int, state: Mapping[str, Any], at: datetime) -> Self:
        """Rebuild the aggregate from what `kept_state` returned after `version` events."""
        aggregate = cls.__new__(cls)
        aggregate.__base_init__(originator_id=stream, originator_version=version, timestamp=at)
        vars(aggregate).update(cls.revived(state))
        return aggregate

    @classmethod
    def revived(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Turn kept JSON values back into the aggregate's own value types."""
        return dict(state)


def plain(value: Any) -> Any:
    """Turn the aggregate's own value types into JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value
