"""What the use cases need from outside: small protocols, each with a suite that its adapters pass."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, Self

from domain.agent import Agent
from domain.aggregate import By, MinuteEvent
from domain.conversation import Conversation

TurnState = Literal["running", "committed", "failed", "abandoned"]


# --- the log -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event as it stands in the log; `data` is what the event itself says, upcast to today."""

    position: int
    stream: str
    version: int
    type: str
    conversation_id: str
    turn_id: str
    actor: str
    recorded_at: datetime
    data: Mapping[str, Any]


class EventLog(Protocol):
    """The log, read: position order is commit order, without gaps."""

    async def read(self, first: int, last: int) -> Sequence[LoggedEvent]:
        """Return the events with positions from `first` to `last`, both included, in order."""

    async def head(self) -> int:
        """Return the position of the newest event, 0 for an empty log."""


# --- turns ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What somebody asks for, before it is accepted."""

    turn_id: str
    conversation_id: str
    subject: str
    kind: str
    payload: Mapping[str, Any]
    payload_hash: str


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn as the store knows it. Times are UTC; `payload` is None once the turn is committed."""

    turn_id: str
    conversation_id: str
    subject: str
    kind: str
    payload: Mapping[str, Any] | None
    payload_hash: str
    state: TurnState
    attempt: int
    node: str
    accepted_at: datetime
    ended_at: datetime | None = None
    first_position: int | None = None
    last_position: int | None = None
    provisional_frames: int = 0
    code: str | None = None
    # What the terminal frame said beside the positions: the state reached, or the failure's sentence.
    outcome: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a turn failed, as its terminal frame says it."""

    code: str
    message: str
    provisional_frames: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The turn is ours to run."""

    row: TurnRow


@dataclass(frozen=True, slots=True)
class Existing:
    """A turn with this id was accepted before."""

    row: TurnRow


@dataclass(frozen=True, slots=True)
class Busy:
    """Another turn of this conversation is running."""

    running_turn_id: str


Attempt = tuple[str, int]  # a turn's id and which attempt of it: what is said of one is not said of the next


@dataclass(frozen=True, slots=True)
class Renewal:
    """What the store says about the attempts a node believes it is running."""

    lost: frozenset[Attempt]
    cancelled: frozenset[Attempt]


class Turns(Protocol):
    """The turns, kept: one running a conversation over all processes, each leased to its node.

    All times and leases are the database's clock. A conversation of another subject does not
    exist: every method raises `ConversationNotFoundError` or returns None for it.
    """

    async def accept(self, request: TurnRequest) -> Accepted | Existing | Busy:
        """Make the turn this node's running one, once; first frees an expired lease in its way."""

    async def find(self, turn_id: str, subject: str) -> TurnRow | None:
        """Return the turn, or None when there is none for this subject."""

    async def running_in(self, conversation_id: str, subject: str) -> TurnRow | None:
        """Return the turn of this subject that runs in the conversation, or None when none does."""

    async def rows(self, turn_ids: Sequence[str]) -> Sequence[TurnRow]:
        """Return these turns, whosever they are: for the house itself, never for a caller."""

    async def standing(self, turn_ids: Sequence[str]) -> Sequence[TurnRow]:
        """Return these turns without their payloads: for who asks again and again how they stand."""

    async def withdraw(self, turn_id: str, attempt: int) -> None:
        """Take back a turn that was refused before it opened, as if it had never been accepted."""

    async def fail(self, turn_id: str, attempt: int, failure: Failure) -> bool:
        """Close a running turn of this node as failed; False when it is not running any more."""

    async def retry(self, turn_id: str, subject: str) -> Accepted | Existing | Busy | None:
        """Run a failed or abandoned turn again, as its next attempt. None: no such turn.

        `Existing`: it is running or committed, so there is nothing to retry.
        """

    async def request_cancel(self, turn_id: str, subject: str) -> TurnRow | None:
        """Ask whichever node runs the turn to stop it; returns the row as it is."""

    async def free(self, turn_id: str) -> None:
        """Abandon this turn where its lease has run out; waits for a commit in flight."""

    async def renew(self, attempts: Sequence[Attempt]) -> Renewal:
        """Extend the leases of these attempts of this node in one statement."""

    async def sweep(self) -> Sequence[str]:
        """Abandon every turn whose lease has run out; returns their ids."""

    async def abandon(self, attempts: Sequence[Attempt]) -> None:
        """Abandon these attempts of this node by name (shutdown)."""


# --- the unit of work ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Closing:
    """Which running turn a commit closes, and what is stored with it."""

    turn_id: str
    attempt: int
    provisional_frames: int
    # What the terminal frame says beside the positions; None stands for idle and waiting for nothing.
    outcome: Mapping[str, Any] | None = None
    # Set where the turn repeats an earlier one: its outcome is that one's, with no new event.
    first_position: int | None = None
    last_position: int | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit stored. `events` is empty where nothing new was recorded."""

    first_position: int | None
    last_position: int | None
    events: Sequence[LoggedEvent]
    outcome: Mapping[str, Any] | None = None


class UnitOfWork(Protocol):
    """Both aggregates of one conversation, loaded once and committed once.

    It holds no connection between loading and committing. Leaving it without `commit()` changes
    nothing; a second `commit()` is an error.
    """

    async def __aenter__(self) -> Self:
        """Load both aggregates and the newest events of the conversation in one round trip."""

    async def __aexit__(self, *_: object) -> None:
        """Forget what was recorded and not committed."""

    @property
    def is_new(self) -> bool:
        """Whether the conversation has yet to be started."""

    @property
    def conversation(self) -> Conversation:
        """The conversation; raises `ConversationNotFoundError` where there is none yet."""

    @property
    def agent(self) -> Agent:
        """Who is on; raises `ConversationNotFoundError` where there is no conversation yet."""

    def start(self, by: By, agent: str) -> None:
        """Start the conversation with this agent on."""

    def newest_first(self) -> AsyncIterator[MinuteEvent]:
        """Walk back through the conversation's events, recorded and stored, newest first."""

    async def commit(self, closing: Closing) -> Committed:
        """Store what both aggregates recorded and close the turn, in one transaction.

        Raises `ConflictError` when somebody else wrote first, `TurnLostError` when the lease went
        to another node, `StoreUnavailableError` when the database does not answer.
        """


# --- the rest ------------------------------------------------------------------------------------


class Metrics(Protocol):
    """What is counted. Durations are seconds."""

    def stream_opened(self) -> None: ...
    def stream_closed(self, seconds: float) -> None: ...
    def turn_started(self) -> None: ...
    def turn_ended(self, kind: str, outcome: str, seconds: float) -> None: ...
    def committed(self, operation: str, status: str, seconds: float) -> None: ...
    def append_conflict(self) -> None: ...
    def batch_appended(self, saves: int) -> None: ...
    def model_called(
        self, model: str, outcome: str, seconds: float, input_tokens: int, output_tokens: int
    ) -> None: ...


@dataclass(frozen=True)
class Limits:
    """The bounds a turn keeps. Sizes are bytes, times are seconds, tokens are estimates (4 bytes each)."""

    switches: int = 50
    universal_switches: int = 100
    model_calls: int = 25
    message_bytes: int = 1024 * 1024
    answer_bytes: int = 16 * 1024 * 1024
    turn_s: float = 1800.0
    busy_wait_s: float = 5.0
    view_tokens: int = 24_000
    model_timeout_s: float = 120.0
    chunk_log_frames: int = 20_000
    chunk_log_bytes: int = 16 * 1024 * 1024


UnitOfWorkFactory = Callable[[str, str], UnitOfWork]  # (conversation id, turn id)
