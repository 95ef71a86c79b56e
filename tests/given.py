"""Given what happened, when something is decided, then this is recorded, or refused: the shape of a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from domain.agent import Agent
from domain.aggregate import By, MinuteEvent, SignedAggregate
from domain.conversation import Conversation
from domain.errors import MinutebookError

# What is given happened in the first turn; what is decided now is decided in the second.
BEFORE = By("user:ada", "turn-1")
NOW = By("user:grace", "turn-2")

A = TypeVar("A", bound=SignedAggregate)
SIGNATURE = {"originator_id", "originator_version", "originator_topic", "timestamp", "actor", "turn_id"}


@dataclass(frozen=True)
class Fact:
    """An event as a test names it: its type and its own fields, without signature, version and time."""

    type: type[MinuteEvent]
    fields: dict[str, Any] = field(default_factory=dict)


def fact(type_: type[MinuteEvent], **fields: Any) -> Fact:
    """Name an event and its own fields."""
    return Fact(type_, fields)


def told(event: MinuteEvent) -> Fact:
    """Return what an event says, without its signature."""
    return Fact(type(event), {name: value for name, value in vars(event).items() if name not in SIGNATURE})


def recorded(aggregate: SignedAggregate) -> list[Any]:
    """Return what the aggregate recorded and nobody stored yet."""
    return list(aggregate.pending_events)


class Given(Generic[A]):
    """An aggregate with a past."""

    def __init__(self, aggregate: A) -> None:
        self.aggregate = aggregate

    def and_then(self, *history: Fact | Callable[[A], object]) -> Self:
        """Let facts happen and decisions be taken, all in the first turn."""
        for item in history:
            if isinstance(item, Fact):
                self.aggregate.record(item.type, BEFORE, **item.fields)
            else:
                item(self.aggregate)
        return self

    def when(self, decide: Callable[[A], object]) -> "Outcome[A]":
        """Decide something, and keep what came of it."""
        self.aggregate.collect_events()
        answer, error = None, None
        try:
            answer = decide(self.aggregate)
        except MinutebookError as refusal:
            error = refusal
        return Outcome(self.aggregate, list(self.aggregate.collect_events()), answer, error)


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """What came of a decision."""

    aggregate: A
    events: list[Any]
    answer: object
    error: MinutebookError | None

    def then(self, *expected: Fact) -> Self:
        """Expect exactly these events, each signed by who decided; none at all for a quiet decision."""
        assert self.error is None, repr(self.error)
        assert [told(event) for event in self.events] == list(expected)
        assert {(event.actor, event.turn_id) for event in self.events} <= {(NOW.actor, NOW.turn_id)}
        return self

    def refused(self, error: type[MinutebookError], **details: object) -> Self:
        """Expect this refusal, with at least these details, and nothing recorded."""
        assert type(self.error) is error, repr(self.error)
        assert {name: self.error.details.get(name) for name in details} == details
        assert "{" not in str(self.error), "the sentence misses a detail"
        assert self.events == []
        return self

    def answered(self, answer: object) -> Self:
        """Expect the decision to return this."""
        assert self.answer == answer
        return self

    def repeats(self, turn_id: str = BEFORE.turn_id) -> Self:
        """Expect nothing new, and the turn that recorded it first."""
        return self.then().answered(turn_id)

    def leaves(self, **state: object) -> Self:
        """Expect these attributes of the aggregate afterwards."""
        assert {name: getattr(self.aggregate, name) for name in state} == state
        return self


def given(*history: Fact | Callable[[Conversation], object]) -> Given[Conversation]:
    """Give a conversation that was started, and what happened in it."""
    return Given(Conversation.begin("c1", BEFORE)).and_then(*history)


def given_agent(*history: Fact | Callable[[Agent], object]) -> Given[Agent]:
    """Give the agent side of a conversation, `orchestrator` on, and what happened to it."""
    return Given(Agent.assign("c1", "orchestrator", BEFORE)).and_then(*history)
