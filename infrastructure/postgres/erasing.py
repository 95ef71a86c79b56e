"""The erasure of a conversation: its key destroyed and a receipt appended, in one transaction."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row, tuple_row

from application.erasing import Erasure
from application.errors import ConflictError, TurnInProgressError
from application.ports import Closing
from domain.agent import agent_stream
from domain.conversation import Conversation, conversation_stream
from domain.errors import ConversationNotFoundError
from infrastructure.postgres import arrays
from infrastructure.postgres.batch import APPEND, NewEvent, Save, Status, parameters
from infrastructure.postgres.forgetting import Asked, forget_turns
from infrastructure.postgres.notifier import CHANNEL
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.vault import StoredDataError

_LOCK: Final = "SELECT pg_advisory_xact_lock(append_lock())"
_FIRST: Final = "SELECT actor, recorded_at FROM log WHERE stream = %s AND version = 1"
_KEY: Final = "SELECT erased_at, scrubbed_at FROM keys.conversations WHERE conversation = %s FOR UPDATE"
_RECEIPT: Final = (
    "SELECT position, recorded_at, actor, data FROM log WHERE stream = %s AND type = %s"
    " ORDER BY version DESC LIMIT 1"
)
_ACCEPT: Final = (
    "SELECT verdict, (turn).id FROM turn_accept(%s, %s, %s, 'erase', NULL, '', %s, interval '1 min')"
)
_COUNTS: Final = """
    SELECT count(*) AS events,
           count(*) FILTER (WHERE type = 'conversation.user_message_received') AS person_messages,
           count(*) FILTER (WHERE type = 'conversation.assistant_message_sent') AS agent_messages,
           count(*) FILTER (WHERE type = 'conversation.tool_call_requested') AS calls,
           count(DISTINCT turn) AS turns
      FROM log WHERE conversation = %s"""
_VERSIONS: Final = "SELECT stream, max(version) FROM log WHERE stream = ANY(%s) GROUP BY stream"
# In the order in which they are done; each takes the conversation, its streams and the erasure's own turn.
_DESTROY: Final = (
    "UPDATE keys.conversations SET wrapped = NULL, erased_at = clock_timestamp() WHERE conversation = %(id)s",
    """UPDATE turns SET payload = NULL, payload_hash = '', outcome = NULL
        WHERE conversation = %(id)s AND id <> %(turn)s""",
    "DELETE FROM snapshots WHERE stream = ANY(%(streams)s)",
    "DELETE FROM chunks WHERE conversation = %(id)s",
)
_ATTEMPTS: Final = 5
# Takes the conversation's rows out of the read models that have not come to the receipt at this position.
Purge = Callable[[psycopg.AsyncConnection[Any], str, int], Awaitable[None]]


class PostgresEraser:
    """Erases conversations; `forget` is told of each, so that this process drops what it has in memory.

    An erasure is a turn: while it is under way no other turn runs in the conversation, and while
    another one runs it is refused. Before it is answered `purge` has emptied the read models, also those
    that stand still and would not come to the receipt.
    """

    def __init__(self, pool: Pool, node: str, forget: Callable[[str], None], purge: Purge) -> None:
        self._pool = pool
        self._node = node
        self._forget = forget
        self._purge = purge

    async def erase(
        self, conversation_id: str, subject: str | None, actor: str, reason: str | None
    ) -> Erasure:
        """Destroy the key and append the receipt, in one transaction; return the first receipt later on.

        Of a conversation of which nothing is stored the turns are forgotten that came to nothing.
        `subject` is whose it has to be, None for anybody's. Raises `ConversationNotFoundError`,
        `TurnInProgressError` while a turn runs in it, and `StoreUnavailableError`.
        """
        asked = Asked(conversation_id, subject, actor, reason, self._node)
        async with store_errors(), self._pool.connection() as connection:
            erasure = await _erased(connection, asked)
        self._forget(conversation_id)
        if erasure.position:
            await self._spread(erasure)
        return erasure

    async def _spread(self, erasure: Erasure) -> None:
        """Empty the read models, and let the other processes hear of it. Again, it does both again."""
        async with store_errors(), self._pool.connection() as connection:
            await self._purge(connection, erasure.conversation_id, erasure.position)
            await connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(erasure.position)])


async def _erased(connection: psycopg.AsyncConnection[Any], asked: Asked) -> Erasure:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with connection.transaction():
                return await _in_transaction(connection, asked)
        except psycopg.errors.DeadlockDetected:  # with a turn that was being tried again just then
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _in_transaction(connection: psycopg.AsyncConnection[Any], asked: Asked) -> Erasure:
    stream = conversation_stream(asked.conversation)
    if await _row(connection, _FIRST, [stream]) is None:  # looked for before anybody has to wait for us
        return await forget_turns(connection, asked)
    await connection.execute(_LOCK)
    first = await _row(connection, _FIRST, [stream])
    if first is None or asked.subject not in (None, first["actor"].removeprefix("user:")):
        raise ConversationNotFoundError
    key = await _row(connection, _KEY, [asked.conversation])
    if key is None:
        raise StoredDataError(reason=f"the key store has no key of conversation {asked.conversation}")
    if key["erased_at"] is None:
        owner = first["actor"].removeprefix("user:")
        await _accept(connection, asked, owner)
        await _append(connection, asked, owner, first["recorded_at"].isoformat())
        values = {"id": asked.conversation, "streams": _streams(asked), "turn": asked.turn}
        for statement in _DESTROY:
            await connection.execute(statement.encode(), values)
    return await _receipt(connection, asked, key["scrubbed_at"])


def _streams(asked: Asked) -> list[str]:
    return [conversation_stream(asked.conversation), agent_stream(asked.conversation)]


async def _accept(connection: psycopg.AsyncConnection[Any], asked: Asked, owner: str) -> None:
    """Let no other turn run meanwhile."""
    row = await _row(connection, _ACCEPT, [asked.turn, asked.conversation, owner, asked.node])
    if row is None or row["verdict"] != "accepted":
        raise TurnInProgressError(turn_id=row["id"] if row else "")


async def _append(
    connection: psycopg.AsyncConnection[Any], asked: Asked, owner: str, started_at: str
) -> None:
    """Append the receipt. It is not sealed: it says nothing of what was said."""
    stream = conversation_stream(asked.conversation)
    versions = dict(await _rows(connection, _VERSIONS, [_streams(asked)]))
    erased = await _row(connection, _COUNTS, [asked.conversation])
    data = {"reason": asked.reason, "owner": owner, "started_at": started_at, "erased": erased}
    receipt = NewEvent(
        stream,
        versions[stream] + 1,
        Conversation.Erased.TOPIC,
        asked.conversation,
        asked.turn,
        asked.actor,
        json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode(),
    )
    save = Save([receipt], versions, Closing(asked.turn, 1, 0), asked.node)
    arrays.register(connection)
    cursor = connection.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(APPEND, parameters([save]))
    said = await cursor.fetchone()
    if said is None or said[0][0] != Status.STORED:
        raise ConflictError


async def _receipt(connection: psycopg.AsyncConnection[Any], asked: Asked, scrubbed_at: Any) -> Erasure:
    row = await _row(
        connection, _RECEIPT, [conversation_stream(asked.conversation), Conversation.Erased.TOPIC]
    )
    if row is None:
        raise StoredDataError(reason=f"the log has no receipt of the erasure of {asked.conversation}")
    data = json.loads(row["data"])
    return Erasure(
        conversation_id=asked.conversation,
        position=row["position"],
        erased_at=row["recorded_at"],
        actor=row["actor"],
        reason=data["reason"],
        erased=data["erased"],
        scrubbed_at=scrubbed_at,
    )


async def _row(connection: psycopg.AsyncConnection[Any], query: str, values: list[Any]) -> Any:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(query.encode(), values)
    return await cursor.fetchone()


async def _rows(connection: psycopg.AsyncConnection[Any], query: str, values: list[Any]) -> Any:
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(query.encode(), values)
    return await cursor.fetchall()
