"""Turns of which nothing came to stand in the log, forgotten. Without a stream the receipt is a turn, too."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from application.erasing import Erasure
from application.errors import TurnInProgressError
from application.ids import new_id
from domain.errors import ConversationNotFoundError

_FREE: Final = "SELECT turn_free('', %s)"
# Whose they are counts: without an event in it a conversation belongs to nobody yet.
_TURNS: Final = """
    SELECT id, subject, state, kind, ended_at, outcome,
           payload IS NOT NULL OR payload_hash <> '' AS says_something
      FROM turns WHERE conversation = %(id)s AND (subject = %(subject)s OR %(subject)s IS NULL)
     ORDER BY accepted_at, id"""
_FORGET: Final = """
    UPDATE turns SET payload = NULL, payload_hash = '', outcome = NULL
     WHERE id = ANY(%(turns)s) AND state IN ('failed', 'abandoned')"""
_FORGET_CHUNKS: Final = "DELETE FROM chunks WHERE turn = ANY(%(turns)s)"
_RECEIPT: Final = """
    INSERT INTO turns (id, conversation, subject, kind, state, node, payload_hash, outcome,
                       lease_until, accepted_at, ended_at)
    SELECT %(receipt)s, %(id)s, %(subject)s, 'erase', 'committed', %(node)s, '', %(outcome)s, now, now, now
      FROM clock_timestamp() AS now"""
_NOTHING: Final = ("events", "person_messages", "agent_messages", "calls")


@dataclass(frozen=True)
class Asked:
    """One erasure that is asked for; `subject` is whose it has to be, None for anybody's."""

    conversation: str
    subject: str | None
    actor: str
    reason: str | None
    node: str
    turn: str = field(default_factory=new_id)


async def forget_turns(connection: psycopg.AsyncConnection[Any], asked: Asked) -> Erasure:
    """Forget what the conversation's turns asked for, in the caller's transaction.

    Again, it says what it did. Raises `ConversationNotFoundError` where there is no such turn, and
    `TurnInProgressError` while one runs.
    """
    await connection.execute(_FREE, [asked.conversation])
    turns = await _turns(connection, asked)
    for turn in turns:
        if turn["state"] == "running":
            raise TurnInProgressError(turn_id=turn["id"])
    if speaking := [turn for turn in turns if turn["says_something"]]:
        await _forget(connection, asked, speaking)
        turns = await _turns(connection, asked)
    receipts = [turn for turn in turns if turn["kind"] == "erase"]
    if not receipts:
        raise ConversationNotFoundError
    return _told(asked.conversation, receipts[-1])


async def _turns(connection: psycopg.AsyncConnection[Any], asked: Asked) -> list[Any]:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(_TURNS, {"id": asked.conversation, "subject": asked.subject})
    return await cursor.fetchall()


async def _forget(connection: psycopg.AsyncConnection[Any], asked: Asked, turns: Sequence[Any]) -> None:
    outcome = {"actor": asked.actor, "reason": asked.reason, "turns": len(turns)}
    values = {
        "turns": [turn["id"] for turn in turns],
        "receipt": asked.turn,
        "id": asked.conversation,
        "subject": turns[-1]["subject"],
        "node": asked.node,
        "outcome": json.dumps(outcome).encode(),
    }
    for statement in (_FORGET, _FORGET_CHUNKS, _RECEIPT):
        await connection.execute(statement.encode(), values)


def _told(conversation: str, receipt: Any) -> Erasure:
    """Return what a receipt says. It stands at no position; and no file ever had it but encrypted."""
    outcome = json.loads(receipt["outcome"])
    return Erasure(
        conversation_id=conversation,
        position=0,
        erased_at=receipt["ended_at"],
        actor=outcome["actor"],
        reason=outcome["reason"],
        erased={**dict.fromkeys(_NOTHING, 0), "turns": outcome["turns"]},
        scrubbed_at=receipt["ended_at"],
    )
