"""Who is on in a conversation, how the agents were switched, and which models they called."""

from typing import Any, Self

from eventsourcing.domain import event

from domain.aggregate import By, SignedAggregate
from domain.errors import SwitchLimitReachedError


def agent_stream(conversation_id: str) -> str:
    """Return the name of a conversation's agent stream."""
    return f"agent-{conversation_id}"


class Agent(SignedAggregate):
    """The agent side of one conversation."""

    TOPIC = "agent"

    # --- Events ----------------------------------------------------------------------------------

    class Event(SignedAggregate.Event):
        """The base of the agent's events."""

    class Started(Event, SignedAggregate.Started):
        """The conversation got its first agent."""

        TOPIC = "agent.assigned"
        agent: str

    class Switched(Event):
        """Another agent took over. Version 1 did not say who had asked for it."""

        TOPIC = "agent.switched"
        class_version = 2
        from_: str
        to: str
        reason: str
        requested_by: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Say that the asker of an old switch is not known."""
            state["requested_by"] = "unknown"

    class ModelCalled(Event):
        """A model was asked. Tokens are the provider's counts; `outcome` is its finish reason or a code."""

        TOPIC = "agent.model_called"
        agent: str
        model: str
        input_tokens: int
        output_tokens: int
        duration_ms: int
        outcome: str

    # --- State -----------------------------------------------------------------------------------

    @event(Started)
    def __init__(self, agent: str, turn_id: str) -> None:
        self.name = agent
        self.switches = 0
        self.switched_in = turn_id

    # --- Decisions -------------------------------------------------------------------------------

    @classmethod
    def assign(cls, conversation_id: str, agent: str, by: By) -> Self:
        """Put the first agent of a conversation on."""
        return cls._create(
            cls.Started, id=agent_stream(conversation_id), agent=agent, actor=by.actor, turn_id=by.turn_id
        )

    def switch(self, to: str, reason: str, requested_by: str, by: By, limit: int | None = None) -> str | None:
        """Let another agent take over; `limit` None does not count (a plan changes agents as it must).

        Returns the turn that put this agent on where it is already there, None otherwise.
        Raises `SwitchLimitReachedError`.
        """
        if to == self.name:
            return self.switched_in
        if limit is not None and self.switches >= limit:
            raise SwitchLimitReachedError(limit=limit)
        self.record(self.Switched, by, from_=self.name, to=to, reason=reason, requested_by=requested_by)
        return None

    def note_model_call(
        self, model: str, input_tokens: int, output_tokens: int, duration_ms: int, outcome: str, by: By
    ) -> None:
        """Note that the agent asked its model, and what it cost; two equal calls are two notes."""
        self.record(
            self.ModelCalled,
            by,
            agent=self.name,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            duration_ms=duration_ms,
            outcome=outcome,
        )

    # --- Consequences ----------------------------------------------------------------------------

    @event(Switched)
    def _on_switched(self, to: str, requested_by: str, turn_id: str) -> None:
        self.name = to
        self.switches += 0 if requested_by.startswith("plan:") else 1
        self.switched_in = turn_id
