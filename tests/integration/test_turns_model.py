"""Any sequence of operations leaves the turns as a few lines of Python say they should be."""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.errors import TurnIdReusedError
from application.ports import Accepted, Busy, Existing, Failure
from domain.errors import ConversationNotFoundError
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.integration.turn_helpers import asked, execute, expire

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

TURNS = ("t1", "t2", "t3")
CONVERSATIONS = ("c1", "c2")
SUBJECTS = ("ada", "bob")
NODES = ("node-1", "node-2")
# operation, turn, conversation, subject, node, attempt
Step = tuple[str, str, str, str, str, int]


@dataclass
class Modelled:
    """A turn as the model sees it."""

    conversation: str
    subject: str
    node: str
    state: str = "running"
    attempt: int = 1
    is_expired: bool = False
    is_cancelled: bool = False


@dataclass
class Model:
    """What is promised, said as simply as possible."""

    turns: dict[str, Modelled] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def running(self, conversation: str) -> str | None:
        on = [
            t
            for t, turn in self.turns.items()
            if (turn.conversation, turn.state) == (conversation, "running")
        ]
        return on[0] if on else None

    def free(self, turn_id: str, conversation: str) -> None:
        for name, turn in self.turns.items():
            if (name == turn_id or turn.conversation == conversation) and turn.is_expired:
                self.end(turn, "abandoned")

    def end(self, turn: Modelled, state: str) -> None:
        if turn.state == "running":
            turn.state, turn.is_expired = state, False

    def is_foreign(self, conversation: str, subject: str) -> bool:
        on = self.running(conversation)
        return self.owners.get(conversation, self.turns[on].subject if on else subject) != subject

    def accept(self, turn_id: str, conversation: str, subject: str, node: str) -> str:
        self.free(turn_id, conversation)
        if self.is_foreign(conversation, subject):
            return "ConversationNotFoundError"
        if there := self.turns.get(turn_id):
            return "Existing" if there.subject == subject else "TurnIdReusedError"
        if self.running(conversation):
            return "Busy"
        self.turns[turn_id] = Modelled(conversation, subject, node)
        return "Accepted"

    def retry(self, turn_id: str, subject: str, node: str) -> str:
        turn = self.turns.get(turn_id)
        if not turn or turn.subject != subject:
            return "NoneType"
        self.free(turn_id, turn.conversation)
        if self.is_foreign(turn.conversation, subject):
            return "ConversationNotFoundError"
        if turn.state in {"running", "committed"}:
            return "Existing"
        if self.running(turn.conversation):
            return "Busy"
        turn.state, turn.node, turn.is_cancelled = "running", node, False
        turn.attempt += 1
        return "Accepted"

    def mine(self, turn_id: str, attempt: int, node: str) -> Modelled | None:
        turn = self.turns.get(turn_id)
        return turn if turn and (turn.state, turn.attempt, turn.node) == ("running", attempt, node) else None


class Both:
    """Does everything twice: in the model and in the database."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.model = Model()
        self.mark = uuid.uuid4().hex[:8]  # each example has names of its own
        self.nodes = {node: PostgresTurns(pool, node, 30.0) for node in NODES}

    async def do(self, step: Step) -> None:
        operation, turn, conversation, subject, node, attempt = step
        turn, conversation = f"{self.mark}-{turn}", f"{self.mark}-{conversation}"
        turns, model = self.nodes[node], self.model
        if operation == "accept":
            request = asked(turn_id=turn, conversation_id=conversation, subject=subject)
            assert await said(turns.accept(request)) == model.accept(turn, conversation, subject, node)
        elif operation == "retry":
            assert await said(turns.retry(turn, subject)) == model.retry(turn, subject, node)
        elif operation == "fail":
            mine = model.mine(turn, attempt, node)
            assert await turns.fail(turn, attempt, Failure("conflict", "No.")) == bool(mine)
            if mine:
                model.end(mine, "failed")
        elif operation == "withdraw":
            await turns.withdraw(turn, attempt)
            self._withdraw(turn, attempt, node)
        elif operation in {"expire", "commit"}:
            await self._happen(operation, turn)
        elif operation == "cancel":
            row = await turns.request_cancel(turn, subject)
            there = model.turns.get(turn)
            assert bool(row) == bool(there and there.subject == subject)
            if row and there and there.state == "running":
                there.is_cancelled = True
        else:
            await self._keep(operation, node, attempt)

    def _withdraw(self, turn: str, attempt: int, node: str) -> None:
        mine = self.model.mine(turn, attempt, node)
        if mine and attempt == 1:
            del self.model.turns[turn]
        elif mine:
            self.model.end(mine, "abandoned")

    async def _happen(self, operation: str, turn: str) -> None:
        there = self.model.turns.get(turn)
        if not there or there.state != "running":
            return
        if operation == "expire":
            await expire(self.pool, turn)
            there.is_expired = True
            return
        self.model.end(there, "committed")
        await execute(self.pool, "UPDATE turns SET state = 'committed' WHERE id = %s", turn)
        if self.model.owners.setdefault(there.conversation, there.subject) == there.subject:
            await execute(
                self.pool, FIRST_EVENT, f"conversation-{there.conversation}", f"user:{there.subject}"
            )

    async def _keep(self, operation: str, node: str, attempt: int) -> None:
        turns, model = self.nodes[node], self.model
        if operation == "sweep":
            swept = {name for name in await turns.sweep() if name.startswith(self.mark)}
            assert swept == {name for name, turn in model.turns.items() if turn.is_expired}
            for name in swept:
                model.end(model.turns[name], "abandoned")
        elif operation == "abandon":
            await turns.abandon([(f"{self.mark}-{turn}", attempt) for turn in TURNS])
            for turn in model.turns.values():
                if (turn.node, turn.attempt) == (node, attempt):
                    model.end(turn, "abandoned")
        else:
            await self._renew(turns, node, attempt)

    async def _renew(self, turns: PostgresTurns, node: str, attempt: int) -> None:
        asked_for = {(f"{self.mark}-{turn}", attempt) for turn in TURNS}
        renewal = await turns.renew(list(asked_for))
        held = {
            (name, attempt): turn
            for name, turn in self.model.turns.items()
            if (turn.node, turn.attempt) == (node, attempt) and turn.state != "abandoned"
        }
        running = {key: turn for key, turn in held.items() if turn.state == "running"}
        assert renewal.lost == asked_for - held.keys()
        assert renewal.cancelled == {key for key, turn in running.items() if turn.is_cancelled}
        for turn in running.values():
            turn.is_expired = False

    async def check(self) -> None:
        """Compare every turn, and who sees it."""
        for name in (f"{self.mark}-{turn}" for turn in TURNS):
            there = self.model.turns.get(name)
            for subject in SUBJECTS:
                row = await self.nodes["node-1"].find(name, subject)
                assert bool(row) == bool(there and there.subject == subject)
                if row and there:
                    assert (row.state, row.attempt, row.node) == (there.state, there.attempt, there.node)
                    assert (row.ended_at is None) == (row.state in {"running", "committed"})


FIRST_EVENT = (
    "INSERT INTO log "
    "SELECT coalesce(max(position), 0) + 1, now(), 1, %s, 'conversation.started', '', '', %s, '{}' FROM log "
    "ON CONFLICT DO NOTHING"
)
operations = st.tuples(
    st.sampled_from(
        [
            *["accept"] * 4,
            *["retry", "fail", "commit", "expire"] * 2,
            *["withdraw", "cancel", "sweep", "abandon", "renew"],
        ]
    ),
    st.sampled_from(TURNS),
    st.sampled_from(CONVERSATIONS),
    st.sampled_from(SUBJECTS),
    st.sampled_from(NODES),
    st.integers(1, 3),
)


async def said(answer: Any) -> str:
    try:
        outcome: Accepted | Existing | Busy | None = await answer
    except (ConversationNotFoundError, TurnIdReusedError) as error:
        return type(error).__name__
    return type(outcome).__name__


@given(st.lists(operations, min_size=3, max_size=25))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_sequence_of_operations_does_what_the_model_says(database_url: str, steps: list[Step]) -> None:
    asyncio.run(_compare(database_url, steps))


async def _compare(url: str, steps: list[Step]) -> None:
    async with open_pool(url, min_size=1, max_size=1) as pool:
        both = Both(pool)
        for step in steps:
            await both.do(step)
        await both.check()
