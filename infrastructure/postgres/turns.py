"""The turns, kept in PostgreSQL: accepted once, one running a conversation, leased by its clock."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, LiteralString

from psycopg.abc import Params

from application.errors import TurnIdReusedError
from application.ports import Accepted, Attempt, Busy, Existing, Failure, Renewal, TurnRequest, TurnRow
from domain.errors import ConversationErasedError, ConversationNotFoundError
from infrastructure.postgres.mapper import PlainJson
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.postgres.together import Together
from infrastructure.vault import DataKey

# In the order of TurnRow's fields.
COLUMNS: Final = (
    "id", "conversation", "subject", "kind", "payload", "payload_hash", "state", "attempt", "node",
    "accepted_at", "ended_at", "first_position", "last_position", "provisional_frames", "code", "outcome",
)  # fmt: skip
SUBJECT: Final = COLUMNS.index("subject")
PLAIN: Final = ", ".join(COLUMNS)
OF_TURN: Final = ", ".join(f"(turn).{name}" for name in COLUMNS)

# In the order of their conversations: two processes that accept for the same ones wait, not deadlock.
ACCEPT: Final = f"""
    SELECT number, verdict, {OF_TURN}
      FROM (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::bytea[])
              WITH ORDINALITY AS given (id, conversation, subject, kind, payload, hash, number)
             ORDER BY conversation, id) AS asked
     CROSS JOIN LATERAL turn_accept(asked.id, asked.conversation, asked.subject, asked.kind,
                                    asked.payload, asked.hash, %s, %s)"""
RETRY: Final = f"SELECT verdict, {OF_TURN} FROM turn_retry(%s, %s, %s, %s)"
ROWS: Final = f"select {PLAIN} from turns where id = any(%s)"
STANDING: Final = ROWS.replace("payload,", "NULL::bytea AS payload,", 1)
FIND: Final = f"SELECT {PLAIN} FROM turns WHERE id = %s AND subject = %s"
RUNS_IN: Final = f"SELECT {PLAIN} FROM turns WHERE conversation = %s AND state = 'running' AND subject = %s"
REQUEST_CANCEL: Final = f"SELECT {PLAIN} FROM turn_request_cancel(%s, %s)"
FAIL: Final = """
    UPDATE turns
       SET state = 'failed', ended_at = clock_timestamp(), code = %s, outcome = %s, provisional_frames = %s
     WHERE id = %s AND attempt = %s AND node = %s AND state = 'running'
    RETURNING id"""
# A first attempt vanishes. A later one goes back to what could be retried, and its number is never
# given out again: whatever still runs under it stays locked out.
WITHDRAW: Final = """
    WITH mine AS (
        SELECT id, attempt FROM turns
         WHERE id = %s AND attempt = %s AND node = %s AND state = 'running' FOR UPDATE),
    gone AS (DELETE FROM turns USING mine WHERE turns.id = mine.id AND mine.attempt = 1)
    UPDATE turns SET state = 'abandoned', ended_at = clock_timestamp(), code = 'turn_abandoned'
      FROM mine WHERE turns.id = mine.id AND mine.attempt > 1"""
ABANDON: Final = """
    UPDATE turns SET state = 'abandoned', ended_at = clock_timestamp(), code = 'turn_abandoned'
     WHERE id = %s AND attempt = %s AND node = %s AND state = 'running'"""
FREE: Final = """
    UPDATE turns SET state = 'abandoned', ended_at = clock_timestamp(), code = 'turn_abandoned'
     WHERE id = %s AND state = 'running' AND lease_until < clock_timestamp()"""
# A lease that lies further ahead than it is long is one of a clock that was set back since: it begins anew.
SWEEP: Final = """
    WITH cut AS (
        UPDATE turns SET lease_until = clock_timestamp() + %(lease)s
         WHERE id IN (SELECT id FROM turns
                       WHERE state = 'running' AND lease_until > clock_timestamp() + %(lease)s
                         FOR UPDATE SKIP LOCKED))
    UPDATE turns SET state = 'abandoned', ended_at = clock_timestamp(), code = 'turn_abandoned'
     WHERE id IN (SELECT id FROM turns WHERE state = 'running' AND lease_until < clock_timestamp()
                  FOR UPDATE SKIP LOCKED)
    RETURNING id"""
# `held` reads without locking: a row that a commit in flight has locked is neither waited for nor
# counted as lost. Nor is one that this node itself has closed a moment ago.
RENEW: Final = """
    WITH asked AS (SELECT * FROM unnest(%(ids)s::text[], %(attempts)s::int[]) AS asked (id, attempt)),
    held AS (
        SELECT id, attempt, cancel_requested AND state = 'running' AS cancelled FROM turns JOIN asked
         USING (id, attempt) WHERE node = %(node)s AND state <> 'abandoned'),
    renewed AS (
        UPDATE turns SET lease_until = clock_timestamp() + %(lease)s
         WHERE id IN (SELECT id FROM turns JOIN asked USING (id, attempt)
                       WHERE node = %(node)s AND state = 'running'
                         FOR UPDATE OF turns SKIP LOCKED))
    SELECT id, attempt, cancelled FROM held"""


class PostgresTurns:
    """One node's view of the turns. All methods raise `StoreUnavailableError` without a database.

    With a key for the payloads, what is asked for is sealed together with the turn's id.
    """

    def __init__(self, pool: Pool, node: str, lease_s: float, payloads: DataKey | None = None) -> None:
        self._pool = pool
        self._node = node
        self._lease = timedelta(seconds=lease_s)
        self._payloads = payloads
        self._json = PlainJson()
        self._accepts: Together[tuple[Any, ...], tuple[Any, ...]] = Together(self._accept)

    async def accept(self, request: TurnRequest) -> Accepted | Existing | Busy:
        """Make the turn this node's running one, once; first frees an expired lease in its way.

        Raises `ConversationNotFoundError` for somebody else's conversation and `TurnIdReusedError`
        for somebody else's turn id. `Existing` says nothing about the payload: compare the hash.
        """
        asked = (request.turn_id, request.conversation_id, request.subject, request.kind)
        payload = (self._sealed(request), bytes.fromhex(request.payload_hash))
        row = await self._accepts.answer((*asked, *payload))
        answer = self._answer(row, request.turn_id, request.subject)
        assert answer, "turn_accept never says 'missing'"  # noqa: S101
        return answer

    async def _accept(self, asked: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """Accept several at once: they share a transaction and its flush, not their fate."""
        columns = [list(column) for column in zip(*asked, strict=True)]
        rows = await self._rows(ACCEPT, (*columns, self._node, self._lease))
        answers = {row[0]: row[1:] for row in rows}
        return [answers[number] for number in range(1, len(asked) + 1)]

    async def retry(self, turn_id: str, subject: str) -> Accepted | Existing | Busy | None:
        """Run a failed or abandoned turn again, as its next attempt. None: no such turn.

        `Existing`: it is running or committed. Raises `ConversationNotFoundError` where the
        conversation has become somebody else's since.
        """
        row = await self._row(RETRY, (turn_id, subject, self._node, self._lease))
        assert row, "turn_retry always answers"  # noqa: S101
        return self._answer(row, turn_id, subject)

    async def find(self, turn_id: str, subject: str) -> TurnRow | None:
        """Return the turn, or None when there is none for this subject."""
        row = await self._row(FIND, (turn_id, subject))
        return self.turn_of(row) if row else None

    async def running_in(self, conversation_id: str, subject: str) -> TurnRow | None:
        """Return the turn of this subject that runs in the conversation, or None when none does."""
        row = await self._row(RUNS_IN, (conversation_id, subject))
        return self.turn_of(row) if row else None

    async def rows(self, turn_ids: Sequence[str]) -> Sequence[TurnRow]:
        """Return these turns, whosever they are: for the house itself, never for a caller."""
        return [self.turn_of(row) for row in await self._rows(ROWS, (list(turn_ids),))]

    async def standing(self, turn_ids: Sequence[str]) -> Sequence[TurnRow]:
        """Return these turns without what was asked for, which may be large: for who asks how they stand."""
        return [self.turn_of(row) for row in await self._rows(STANDING, (list(turn_ids),))]

    async def withdraw(self, turn_id: str, attempt: int) -> None:
        """Take back a turn that was refused before it opened, as if it had never been accepted."""
        await self._do(WITHDRAW, (turn_id, attempt, self._node))

    async def fail(self, turn_id: str, attempt: int, failure: Failure) -> bool:
        """Close a running turn of this node as failed; False when it is not running any more."""
        said = (failure.code, self._json.encode({"message": failure.message}), failure.provisional_frames)
        return bool(await self._row(FAIL, (*said, turn_id, attempt, self._node)))

    async def request_cancel(self, turn_id: str, subject: str) -> TurnRow | None:
        """Ask whichever node runs the turn to stop it; returns the row as it is."""
        row = await self._row(REQUEST_CANCEL, (turn_id, subject))
        return self.turn_of(row) if row else None

    async def free(self, turn_id: str) -> None:
        """Abandon this turn where its lease has run out; waits for a commit in flight."""
        await self._do(FREE, (turn_id,))

    async def renew(self, attempts: Sequence[Attempt]) -> Renewal:
        """Extend the leases of these attempts of this node in one statement.

        Lost is what was abandoned or went to another node, not what this node has closed itself.
        """
        ids, numbers = [turn_id for turn_id, _ in attempts], [number for _, number in attempts]
        asked = {"ids": ids, "attempts": numbers, "node": self._node, "lease": self._lease}
        held = {(turn_id, number): cancelled for turn_id, number, cancelled in await self._rows(RENEW, asked)}
        return Renewal(
            lost=frozenset(attempts) - frozenset(held),
            cancelled=frozenset(attempt for attempt, cancelled in held.items() if cancelled),
        )

    async def sweep(self) -> Sequence[str]:
        """Abandon every turn whose lease has run out; returns their ids.

        A turn whose lease lies further ahead than ours are long has that long from now on.
        """
        return [turn_id for (turn_id,) in await self._rows(SWEEP, {"lease": self._lease})]

    async def abandon(self, attempts: Sequence[Attempt]) -> None:
        """Abandon these attempts of this node by name (shutdown); one that commits meanwhile stays so."""
        for turn_id, number in attempts:  # one row lock at a time: none is held while waiting for another
            await self._do(ABANDON, (turn_id, number, self._node))

    async def _do(self, query: LiteralString, values: Params) -> None:
        async with store_errors(), self._pool.connection() as connection:
            await connection.execute(query, values, prepare=True)

    async def _rows(self, query: LiteralString, values: Params) -> list[tuple[Any, ...]]:
        async with store_errors(), self._pool.connection() as connection:
            cursor = await connection.execute(query, values, prepare=True)
            return await cursor.fetchall()

    async def _row(self, query: LiteralString, values: Params) -> tuple[Any, ...] | None:
        rows = await self._rows(query, values)
        return rows[0] if rows else None

    def _answer(self, row: Sequence[Any], asked_id: str, asker: str) -> Accepted | Existing | Busy | None:
        verdict, turn = row[0], row[1:]
        # Somebody's first turn may have come after the database had asked whose conversation it is.
        if verdict == "foreign" or (verdict == "busy" and turn[SUBJECT] != asker):
            raise ConversationNotFoundError
        if verdict == "erased":
            raise ConversationErasedError
        if verdict == "reused":
            # Somebody else's id. The answer is word for word the one for a reused id of one's own:
            # it names neither owner, conversation nor state. "No such conversation" would be plainly
            # untrue for a conversation of one's own, and so would tell more.
            raise TurnIdReusedError(turn_id=asked_id)
        if verdict == "missing":
            return None
        if verdict == "busy":
            return Busy(turn[0])
        return Accepted(self.turn_of(turn)) if verdict == "accepted" else Existing(self.turn_of(turn))

    def turn_of(self, row: Sequence[Any]) -> TurnRow:
        """Return a turn from a row of `COLUMNS`."""
        turn = dict(zip(COLUMNS, row, strict=True))
        turn["payload"] = self._decoded(self._opened(turn["id"], turn["payload"]))
        turn["payload_hash"] = turn["payload_hash"].hex()
        turn["outcome"] = self._decoded(turn["outcome"])
        return TurnRow(*turn.values())

    def _sealed(self, request: TurnRequest) -> bytes:
        payload = self._json.encode(request.payload)
        return self._payloads.seal(payload, _about(request.turn_id)) if self._payloads else payload

    def _opened(self, turn_id: str, payload: bytes | None) -> bytes | None:
        if payload is None or self._payloads is None:
            return payload
        return self._payloads.open(payload, _about(turn_id))

    def _decoded(self, stored: bytes | None) -> Any:
        return None if stored is None else self._json.decode(stored)


def _about(turn_id: str) -> bytes:
    return f"turn\n{turn_id}".encode()
