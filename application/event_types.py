"""The stored names of all events."""

from typing import Final

from domain.agent import Agent
from domain.aggregate import MinuteEvent, SignedAggregate
from domain.conversation import Conversation


def topics(aggregate: type[SignedAggregate]) -> frozenset[str]:
    """Return the stored names of an aggregate's events."""
    kinds = (kind for kind in vars(aggregate).values() if isinstance(kind, type))
    return frozenset(kind.TOPIC for kind in kinds if issubclass(kind, MinuteEvent) and hasattr(kind, "TOPIC"))


EVENT_TYPES: Final = tuple(sorted(topics(Conversation) | topics(Agent)))
