"""A big log made of the recorded conversations: `python -m tests.benchmarks.big_log URL EVENTS`.

Each recorded conversation goes through the aggregates once; the events are then stored over and over under
new ids, at valid positions and versions, and sealed with the key of their conversation (the tests' master
key wraps it). All conversations of a round run side by side, as they would.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from domain.agent import Agent
from domain.aggregate import By
from domain.conversation import Conversation
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.vault import DataKey, Vault, about_event
from tests.opened import vault as tests_vault
from tests.recorded import recorded_conversations

DECIDED = ("book_", "cancel_", "update_", "send_")
OWNERS = 10  # subjects the conversations belong to
CONVERSATIONS = 120  # that were recorded

LOG = """
    COPY log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    FROM STDIN (FORMAT binary)"""
LOG_TYPES = ("int8", "timestamptz", "int4", "text", "text", "text", "text", "text", "bytea")
KEYS = "COPY keys.conversations (conversation, wrapped) FROM STDIN (FORMAT binary)"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
BETWEEN = timedelta(milliseconds=10)  # two events


def events_of(messages: list[dict[str, Any]]) -> Iterator[Any]:
    """Let a conversation happen again, through both aggregates."""
    turn = 0
    by = By("user", "turn-0")
    conversation, agent = Conversation.begin("x", by), Agent.assign("x", "airline", by)
    calls: dict[str, str] = {}
    for number, message in enumerate(messages):
        yield from (*conversation.collect_events(), *agent.collect_events())
        if message["role"] == "user":
            turn += 1
            by = By("user", f"turn-{turn}")
            conversation.receive_user_message(f"m{number}", message["content"], by)
        elif message["role"] == "tool":
            by = By("user", f"turn-{turn}-{number}")
            _receive(conversation, calls[message["tool_call_id"]], message["content"], by)
        else:
            _answer(conversation, agent, number, message, calls, by.turn_id)
    yield from (*conversation.collect_events(), *agent.collect_events())


def _receive(conversation: Conversation, call_id: str, content: str, by: By) -> None:
    if call_id in conversation.calls and conversation.calls[call_id].undecided:
        conversation.decide_call(call_id, "approve", None, None, by)
    conversation.receive_tool_result(call_id, content, None, by)


def _answer(
    conversation: Conversation,
    agent: Agent,
    number: int,
    message: Mapping[str, Any],
    calls: dict[str, str],
    turn: str,
) -> None:
    by = By("agent:airline", turn)
    agent.note_model_call("gpt-4o", 1200, 80, 900, "stop", by)
    if message.get("content"):
        conversation.send_assistant_message(f"m{number}", "airline", message["content"], "stop", by)
    for index, call in enumerate(message.get("tool_calls") or ()):
        calls[call["id"]] = call_id = f"call-{number}-{index}"
        asked = {
            "model_call_id": call["id"], "tool": call["name"], "arguments": json.loads(call["arguments"]),
            "agent": "airline", "requires_decision": call["name"].startswith(DECIDED), "rule": "airline",
        }  # fmt: skip
        conversation.request_call(call_id, asked, by)


def templates() -> list[list[NewEvent]]:
    """Return the events of each recorded conversation, as they would be stored."""
    mapper = MinutesMapper()
    return [
        [mapper.to_new_event(event) for event in events_of(one["messages"])]
        for one in recorded_conversations()
    ]


def fill(url: str, events: int, vault: Vault) -> int:
    """Fill an empty log with at least so many events, sealed as always; returns how many there are."""
    made = templates()
    # All conversations of a round side by side: the first event of each, then the second of each, …
    steps = sorted((step, number, event) for number, one in enumerate(made) for step, event in enumerate(one))
    woven = [(number, event) for _, number, event in steps]
    rounds = -(-events // len(woven))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for round_ in range(rounds):
            keys = _make_keys(connection, vault, [_id(round_, number) for number in range(len(made))])
            with connection.cursor().copy(LOG) as copy:
                copy.set_types(LOG_TYPES)
                for row in _rows(round_, woven, keys):
                    copy.write_row(row)
        connection.execute("VACUUM (ANALYZE) log")
    return rounds * len(woven)


def _id(round_: int, number: int) -> str:
    """Return the id of this conversation in this round."""
    return f"{round_:08x}-0000-7000-8000-{number:012x}"


def _make_keys(
    connection: psycopg.Connection, vault: Vault, conversations: Sequence[str]
) -> Mapping[str, DataKey]:
    keys: dict[str, DataKey] = {}
    with connection.cursor().copy(KEYS) as copy:
        copy.set_types(("text", "bytea"))
        for conversation in conversations:
            keys[conversation], wrapped = vault.new_key(conversation)
            copy.write_row((conversation, wrapped))
    return keys


def _rows(
    round_: int, woven: Sequence[tuple[int, NewEvent]], keys: Mapping[str, DataKey]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a round. The owner of a conversation is one of OWNERS."""
    for position, (number, event) in enumerate(woven, start=round_ * len(woven) + 1):
        own_id = _id(round_, number)
        stream = f"{event.stream.partition('-')[0]}-{own_id}"
        person = f"user:person-{(round_ * CONVERSATIONS + number) % OWNERS}"
        data = keys[own_id].seal(event.data, about_event(stream, event.version, event.type))
        yield (
            position, BEGAN + position * BETWEEN, event.version, stream, event.type, own_id,
            f"{event.turn}-{own_id}", person if event.actor == "user" else event.actor, data,
        )  # fmt: skip


if __name__ == "__main__":
    print(fill(sys.argv[1], int(sys.argv[2]), tests_vault()))
