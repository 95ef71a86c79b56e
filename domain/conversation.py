"""A conversation: what was said in it, and whether it goes on; its calls and its plans are parts of it."""

from collections.abc import Mapping
from typing import Self

from eventsourcing.domain import event

from domain.aggregate import By, SignedAggregate
from domain.conversation_plans import WithPlans
from domain.errors import ConversationArchivedError, PlanInExecutionError
from domain.values import State


def conversation_stream(conversation_id: str) -> str:
    """Return the name of a conversation's stream."""
    return f"conversation-{conversation_id}"


class Conversation(WithPlans):
    """One conversation. Its state keeps only what a decision reads; the rest is a read model."""

    TOPIC = "conversation"

    # --- Events ----------------------------------------------------------------------------------

    class Event(WithPlans.Event):
        """The base of the conversation's events."""

    class Started(Event, SignedAggregate.Started):
        """A person started the conversation; it belongs to them from now on."""

        TOPIC = "conversation.started"

    class Renamed(Event):
        """The conversation got another title."""

        TOPIC = "conversation.renamed"
        title: str

    class Archived(Event):
        """The conversation was put away; it takes no message until it is reopened."""

        TOPIC = "conversation.archived"

    class Reopened(Event):
        """The conversation was taken up again."""

        TOPIC = "conversation.reopened"

    class Erased(Event):
        """The contents were destroyed for good: this is the receipt, and nothing comes after it.

        `owner` is whose it was, `started_at` when it began (ISO 8601); `erased` counts what there was.
        """

        TOPIC = "conversation.erased"
        reason: str | None
        owner: str
        started_at: str
        erased: Mapping[str, int]

    class UserMessageReceived(Event):
        """A person said something."""

        TOPIC = "conversation.user_message_received"
        message_id: str
        content: str

    class AssistantMessageSent(Event):
        """An agent said something; `truncated` where a cancel cut it short."""

        TOPIC = "conversation.assistant_message_sent"
        message_id: str
        agent: str
        content: str
        truncated: bool
        finish_reason: str

    class TurnCancelled(Event):
        """A person stopped the turn; what had been said until then is kept."""

        TOPIC = "conversation.turn_cancelled"

    # --- State -----------------------------------------------------------------------------------

    @event(Started)
    def __init__(self) -> None:
        super().__init__()
        self.title: str | None = None
        self.is_archived = False
        self.last_message: str | None = None
        self.cancelled_in: str | None = None

    @property
    def state(self) -> State:
        """What the conversation waits for, derived; where several hold, the first of this list."""
        if self.is_archived:
            return "archived"
        if self.plan_in("execution"):
            return "plan_in_execution"
        if self.plan_in("review"):
            return "plan_in_review"
        if any(call.undecided for call in self.calls.values()):
            return "awaiting_decision"
        return "awaiting_tool_results" if self.calls else "idle"

    @property
    def agent_may_go_on(self) -> bool:
        """Whether nothing is open that somebody else has to answer first."""
        return not self.calls and not self.plan_in("review")

    # --- Decisions: the person -------------------------------------------------------------------

    @classmethod
    def begin(cls, conversation_id: str, by: By) -> Self:
        """Start a conversation; it belongs to the actor."""
        stream = conversation_stream(conversation_id)
        return cls._create(cls.Started, id=stream, actor=by.actor, turn_id=by.turn_id)

    def rename(self, title: str, by: By) -> None:
        """Give the conversation another title; quiet where it has that title already."""
        if title != self.title:
            self.record(self.Renamed, by, title=title)

    def archive(self, by: By) -> None:
        """Put the conversation away and close what is open; quiet where that was done before."""
        if self.is_archived:
            return
        self._close_all("cancelled", by)
        self.record(self.Archived, by)

    def reopen(self, by: By) -> None:
        """Take the conversation up again; quiet where it is not archived."""
        if self.is_archived:
            self.record(self.Reopened, by)

    def receive_user_message(self, message_id: str, content: str, by: By) -> None:
        """Record what a person said; what was still open is superseded by it.

        Quiet where it is the newest message already. Raises `ConversationArchivedError`.
        """
        self.refuse_archived()
        if message_id == self.last_message:
            return
        self._close_all("superseded", by)
        self.record(self.UserMessageReceived, by, message_id=message_id, content=content)

    def refuse_switch(self) -> None:
        """Raise where the agent cannot be changed now: archived, or a plan in execution."""
        self.refuse_archived()
        if self.plan_in("execution"):
            raise PlanInExecutionError

    def cancel_turn(self, by: By) -> None:
        """Record that a person stopped the turn; a plan in execution ends with it. Quiet when repeated."""
        if self.cancelled_in == by.turn_id:
            return
        if self.plan_in("execution"):
            self._close_all("cancelled", by)
        self.record(self.TurnCancelled, by)

    # --- Decisions: the agent --------------------------------------------------------------------

    def send_assistant_message(
        self,
        message_id: str,
        agent: str,
        content: str,
        finish_reason: str,
        by: By,
        *,
        truncated: bool = False,
    ) -> None:
        """Record what an agent said; quiet where it is the newest message already.

        Raises `ConversationArchivedError`.
        """
        self.refuse_archived()
        if message_id == self.last_message:
            return
        self.record(
            self.AssistantMessageSent,
            by,
            message_id=message_id,
            agent=agent,
            content=content,
            truncated=truncated,
            finish_reason=finish_reason,
        )

    # --- What the decisions share ----------------------------------------------------------------

    def refuse_archived(self) -> None:
        """Raise `ConversationArchivedError` where the conversation was put away."""
        if self.is_archived:
            raise ConversationArchivedError

    # --- Consequences ----------------------------------------------------------------------------

    @event(Renamed)
    def _on_renamed(self, title: str) -> None:
        self.title = title

    @event(Archived)
    def _on_archived(self) -> None:
        self.is_archived = True

    @event(Reopened)
    def _on_reopened(self) -> None:
        self.is_archived = False

    @event(UserMessageReceived)
    def _on_user_message_received(self, message_id: str) -> None:
        self.last_message = message_id

    @event(AssistantMessageSent)
    def _on_assistant_message_sent(self, message_id: str) -> None:
        self.last_message = message_id

    @event(TurnCancelled)
    def _on_turn_cancelled(self, turn_id: str) -> None:
        self.cancelled_in = turn_id
