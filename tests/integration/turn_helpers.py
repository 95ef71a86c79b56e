"""What the tests of the turns and of the unit of work share."""

import uuid
from dataclasses import replace
from typing import Any

from application.ports import Accepted, TurnRequest, TurnRow, Turns
from infrastructure.postgres.pool import Pool

LEASE_S = 30.0
HELLO = TurnRequest(
    turn_id="t1",
    conversation_id="c1",
    subject="ada",
    kind="user_message",
    payload={"type": "user_message", "content": "Hello 🛫"},
    payload_hash="f" * 64,
)


def asked(**changes: Any) -> TurnRequest:
    """A request of a turn of its own, with these changes."""
    return replace(HELLO, **{"turn_id": uuid.uuid4().hex, **changes})


async def accepted(turns: Turns, request: TurnRequest = HELLO) -> TurnRow:
    """Accept the turn, which must not be refused."""
    answer = await turns.accept(request)
    assert isinstance(answer, Accepted)
    return answer.row


async def execute(pool: Pool, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement behind everybody's back."""
    async with pool.connection() as connection:
        cursor = await connection.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def expire(pool: Pool, turn_id: str) -> None:
    """Let the turn's lease run out this instant."""
    await execute(
        pool, "UPDATE turns SET lease_until = clock_timestamp() - interval '1 s' WHERE id = %s", turn_id
    )


async def start_conversation(pool: Pool, conversation_id: str = "c1", actor: str = "user:ada") -> None:
    """Store a conversation's first event."""
    await execute(
        pool,
        "INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data) "
        "SELECT coalesce(max(position), 0) + 1, now(), 1, %s, 'conversation.started', %s, 't0', %s, '{}' "
        "FROM log",
        f"conversation-{conversation_id}",
        conversation_id,
        actor,
    )


async def commit(pool: Pool, turn_id: str) -> None:
    """Close the turn as committed."""
    await execute(
        pool,
        "UPDATE turns SET state = 'committed', ended_at = now(), payload = NULL, "
        "first_position = 1, last_position = 2 WHERE id = %s",
        turn_id,
    )
