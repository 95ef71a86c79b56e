"""What can be asked of the read models: a port and its answers for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args

from domain.values import State

# What the list shows: a conversation's state, or that its contents were erased.
ListedState = Literal[State, "erased"]
UsageGroup = Literal["agent", "model", "conversation", "day"]
USAGE_GROUPS: tuple[UsageGroup, ...] = get_args(UsageGroup)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T_co]):
    """What a read model says, and the position of the log it had reached when it said so."""

    position: int
    value: T_co


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """Some of the rows in order; `more` says whether others follow in the same direction."""

    items: Sequence[T_co]
    more: bool = False


def page_of(items: Sequence[T], limit: int) -> Page[T]:
    """Return the page of at most `limit` items; whoever asks the store asks for one more."""
    return Page(items[:limit], len(items) > limit)


# --- conversations -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A conversation as the list shows it. `last_position` is its newest event's, and orders the list."""

    conversation_id: str
    title: str | None
    state: str
    agent: str | None
    person_messages: int
    agent_messages: int
    calls: int
    events: int
    started_at: datetime
    last_activity_at: datetime
    last_position: int
    waiting_for: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """Which conversations: a part of the title in any case, a state, an agent; None is any."""

    search: str | None = None
    state: str | None = None
    agent: str | None = None


class ConversationQueries(Protocol):
    """The conversation list, asked. Every method raises `StoreUnavailableError` without a database."""

    async def page(
        self, owner: str, wanted: ConversationFilter, before: int | None, limit: int
    ) -> Answer[Page[ConversationSummary]]:
        """Return the conversations whose newest event lies below `before`, newest first."""

    async def one(self, owner: str, conversation_id: str) -> Answer[ConversationSummary | None]:
        """Return one conversation, None where there is none for this owner."""


# --- transcripts ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a transcript, at the position where it first appeared.

    `kind` is message, call, plan, subtask, switch or cancellation; `detail` is what belongs to it,
    with all that has become of it since; `text` is what was said or planned.
    """

    position: int
    kind: str
    actor: str
    agent: str | None
    text: str | None
    recorded_at: datetime
    changed_position: int
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a found text, and whether it is what was looked for."""

    text: str
    match: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """An entry in which the words were found, and the stretches of it that show them."""

    conversation_id: str
    position: int
    kind: str
    actor: str
    recorded_at: datetime
    highlight: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Range:
    """Which entries of a transcript: those between two positions, both left out, from either end."""

    after: int | None = None
    before: int | None = None
    newest_first: bool = False


class TranscriptQueries(Protocol):
    """The transcripts, asked."""

    async def page(
        self, owner: str, conversation_id: str, wanted: Range, limit: int
    ) -> Answer[Page[Entry] | None]:
        """Return entries of one conversation, None where there is none for this owner."""

    async def search(self, owner: str, words: str, before: int | None, limit: int) -> Answer[Page[Hit]]:
        """Return the entries with these words in all conversations of the owner, newest first."""


# --- approvals -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Approval:
    """A call or a version of a plan that waits for a person."""

    conversation_id: str
    kind: Literal["call", "plan"]
    position: int
    since: datetime
    agent: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many approvals wait in the whole house, and since when the oldest does."""

    count: int
    oldest: datetime | None


class ApprovalQueries(Protocol):
    """What waits for a person, asked."""

    async def page(self, owner: str, after: int | None, limit: int) -> Answer[Page[Approval]]:
        """Return what waits in all conversations of the owner, the longest waiting first."""

    async def of_conversation(
        self, owner: str, conversation_id: str, after: int | None, limit: int
    ) -> Answer[Page[Approval] | None]:
        """Return what waits in one conversation, None where there is none for this owner."""

    async def waiting(self) -> Answer[Waiting]:
        """Return how much waits, whosever it is."""


# --- agents --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stint:
    """The time one agent was on: who put it there and why, and what it asked of its model.

    `from_agent` and `reason` are None for the first agent of a conversation; `until` is None while it is on.
    """

    agent: str
    from_agent: str | None
    reason: str | None
    requested_by: str
    position: int
    since: datetime
    until: datetime | None
    model_calls: int
    input_tokens: int
    output_tokens: int
    duration_ms: int


class AgentQueries(Protocol):
    """Who is on and was on, asked."""

    async def conversations(self, owner: str) -> Answer[Mapping[str, int]]:
        """Return in how many conversations of the owner each agent is on."""

    async def stints(self, owner: str, conversation_id: str) -> Answer[Sequence[Stint] | None]:
        """Return the stints of a conversation, the newest first; None where there is none for this owner."""


# --- usage ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group of model calls took. `group` has a value for each of the groups asked for."""

    group: Mapping[str, str]
    calls: int
    input_tokens: int
    output_tokens: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which model calls; None is any. `owner` None is everybody.

    Days are `YYYY-MM-DD` in UTC, both included.
    """

    owner: str | None
    from_day: str | None = None
    to_day: str | None = None
    agent: str | None = None
    model: str | None = None
    conversation: str | None = None


class UsageQueries(Protocol):
    """What models were asked and what it took, asked."""

    async def page(
        self, by: Sequence[UsageGroup], wanted: UsageFilter, after: Sequence[str] | None, limit: int
    ) -> Answer[Page[Usage]]:
        """Return the groups behind `after` in the order of their names."""
