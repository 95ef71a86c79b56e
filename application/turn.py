"""A turn while it runs: who asked, what it says, how it is stored."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from application.agents import AgentRoster
from application.frames import STARTED, STATUS, outcome_of
from application.language_model import LanguageModel
from application.model_view import Aside
from application.policy import Policy
from application.ports import (
    Attempt,
    Closing,
    Committed,
    Limits,
    Metrics,
    TurnRow,
    Turns,
    UnitOfWork,
    UnitOfWorkFactory,
)
from application.stream import TurnStream
from domain.aggregate import By

SYSTEM = "system"


@dataclass(frozen=True)
class Kit:
    """What a use case works with."""

    unit_of_work: UnitOfWorkFactory
    turns: Turns
    model: LanguageModel
    model_name: str
    roster: AgentRoster
    policy: Policy
    limits: Limits
    metrics: Metrics
    node: str


class Turn:
    """A turn while it runs: who asked, what it says, and whether somebody wants it to stop."""

    def __init__(self, row: TurnRow, stream: TurnStream) -> None:
        self.row = row
        self.stream = stream
        self.by = By(f"user:{row.subject}", row.turn_id)
        self.system = By(SYSTEM, row.turn_id)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = asyncio.get_running_loop().time()
        self.is_cancelled = False
        # What came of its unit of work: how many events it stored, None for nothing, and how long it took.
        self.stored: int | None = None
        self.took_s = 0.0
        # What ends listening to a model, while one is listened to.
        self.stop_listening: Callable[[], None] | None = None
        self.model_calls = 0
        self.asides: list[Aside] = []

    def by_agent(self, work: UnitOfWork) -> By:
        """Return the signature of the agent that is on."""
        return By(f"agent:{work.agent.name}", self.row.turn_id)

    @property
    def attempt(self) -> Attempt:
        """Which attempt of which turn this is."""
        return self.row.turn_id, self.row.attempt

    @property
    def is_open(self) -> bool:
        """Whether the message was taken and the stream has begun."""
        return self.opened.done()

    def cancel(self) -> None:
        """Stop the turn, keeping what was said; once is enough, and too late is too late."""
        self.is_cancelled = True
        if self.stop_listening:
            self.stop_listening()

    def open(self, work: UnitOfWork) -> None:
        """Say that the message was taken; from now on the stream ends with a terminal frame."""
        self.stream.say(
            STARTED,
            kind=self.row.kind,
            actor=self.by.actor,
            agent=work.agent.name,
            started_at=self.row.accepted_at.isoformat(),
        )
        if not self.opened.done():
            self.opened.set_result(None)

    def status(self, text: str, **detail: Any) -> None:
        """Say what the turn is busy with."""
        self.stream.say(STATUS, text=text, **({"detail": detail} if detail else {}))


async def commit(work: UnitOfWork, turn: Turn) -> Committed:
    """Store what the turn recorded, once."""
    return await _stored(work, _closing(turn, outcome=outcome_of(work.conversation)))


async def commit_repetition(work: UnitOfWork, turn: Turn, kit: Kit, first_turn_id: str) -> Committed:
    """Close a turn that repeats an earlier one: no new event, the first outcome again."""
    first = await kit.turns.find(first_turn_id, turn.row.subject)
    turn.open(work)
    if first is None:
        return await commit(work, turn)
    positions = {"first_position": first.first_position, "last_position": first.last_position}
    await _stored(work, _closing(turn, outcome=first.outcome, **positions))
    return Committed(**positions, events=(), outcome=first.outcome)


async def _stored(work: UnitOfWork, closing: Closing) -> Committed:
    """Commit to the end even when the task is cancelled meanwhile: a half-known commit helps nobody."""
    storing = asyncio.ensure_future(work.commit(closing))
    while True:
        try:
            return await asyncio.shield(storing)
        except asyncio.CancelledError:
            if storing.cancelled():
                raise


def _closing(turn: Turn, **fields: Any) -> Closing:
    return Closing(turn.row.turn_id, turn.row.attempt, turn.stream.last_seq, **fields)


def switch_limit(agent: str, limits: Limits) -> int:
    """Return how often a conversation may switch away from this agent."""
    return limits.universal_switches if agent == "universal" else limits.switches
