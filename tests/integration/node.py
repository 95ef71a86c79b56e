"""One node of the service, with what tests do on it."""

from typing import Any

from application.ports import Closing, Committed, TurnRow
from domain.aggregate import By
from infrastructure.postgres.appender import Appender
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool
from infrastructure.postgres.turns import PostgresTurns
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from infrastructure.vault import Vault
from tests.integration.turn_helpers import accepted, asked, execute

MAPPER = MinutesMapper()
CALL = {
    "model_call_id": "call_0",
    "tool": "book",
    "arguments": {"seats": [1, 2]},
    "agent": "coder",
    "requires_decision": True,
    "rule": "bookings",
}


class Store:
    """One node: its pool, appender, turns and units of work."""

    def __init__(self, pool: Pool, appender: Appender, node: str = "node-1") -> None:
        self.pool, self.appender, self.node = pool, appender, node
        self.turns = PostgresTurns(pool, node, 30.0)
        self.keys = KeyStore(pool, Vault(bytes(range(32))))
        self.log = PostgresLog(pool, MAPPER.to_logged, self.keys)

    def unit(self, turn: TurnRow | str, conversation_id: str = "c1", **sizes: Any) -> PostgresUnitOfWork:
        turn_id = turn if isinstance(turn, str) else turn.turn_id
        return PostgresUnitOfWork(
            conversation_id, turn_id, self.node, self.appender, self.pool, MAPPER, self.keys, **sizes
        )

    async def turn(self, conversation_id: str = "c1") -> TurnRow:
        return await accepted(self.turns, asked(conversation_id=conversation_id))

    async def say(self, *contents: str, snapshot_every: int = 100) -> Committed:
        """Run a whole turn in which a person says these things."""
        turn = await self.turn()
        async with self.unit(turn, snapshot_every=snapshot_every) as work:
            if work.is_new:
                work.start(by(turn), "coder")
            for content in contents:
                work.conversation.receive_user_message(content, content, by(turn))
            return await work.commit(closing(turn))

    async def everything(self) -> list[Any]:
        """All that is stored: leases aside, which are nobody's business here."""
        return [
            await execute(self.pool, f"SELECT * FROM {table} ORDER BY 1, 2")
            for table in ("log", "snapshots", "(SELECT to_jsonb(t) - 'lease_until', 1 FROM turns t) t")
        ]


def by(turn: TurnRow, actor: str = "user:ada") -> By:
    return By(actor, turn.turn_id)


def closing(turn: TurnRow, **fields: Any) -> Closing:
    return Closing(turn.turn_id, turn.attempt, 3, **fields)
