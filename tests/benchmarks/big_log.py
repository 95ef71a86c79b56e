"""A big log made of the recorded conversations: `python -m tests.benchmarks.big_log URL EVENTS`.

Each recorded conversation goes through the aggregates once; the events are then stored over and over under
new ids, at valid positions and versions. All conversations of a round run side by side, as they would.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from domain.agent import Agent
from domain.aggregate import By
from domain.conversation import Conversation
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.mapper import MinutesMapper
from tests.recorded import recorded_conversations

DECIDED = ("book_", "cancel_", "update_", "send_")
OWNERS = 10  # subjects the conversations belong to

TEMPLATE = """
    CREATE TEMP TABLE template (
        step int, conversation int, version int, stream text, type text, turn text, actor text, data bytea)"""
# Conversation n of round r is a conversation of its own, with an id that says so. Its owner is one of OWNERS.
FILL = """
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT %(head)s + row_number() OVER (ORDER BY r, t.step, t.conversation),
           timestamptz '2026-01-01' + make_interval(secs => %(head)s / 100.0)
               + make_interval(secs => (row_number() OVER (ORDER BY r, t.step, t.conversation)) / 100.0),
           t.version, t.stream || '-' || id, t.type, id, t.turn || '-' || id,
           CASE WHEN t.actor = 'user' THEN 'user:person-' || (r * 120 + t.conversation) %% %(owners)s
                ELSE t.actor END,
           t.data
      FROM generate_series(%(first)s::int, %(last)s::int) AS r
     CROSS JOIN LATERAL (
        SELECT *, lpad(to_hex(r), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(conversation), 12, '0') AS id
          FROM template) AS t"""
ROUNDS_AT_A_TIME = 10


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


def fill(url: str, events: int) -> int:
    """Fill an empty log with at least so many events; returns how many there are."""
    made = templates()
    in_a_round = sum(map(len, made))
    head, rounds = 0, -(-events // in_a_round)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET work_mem = '256MB'")
        connection.execute(TEMPLATE)
        with connection.cursor().copy("COPY template FROM STDIN") as copy:
            for number, conversation in enumerate(made):
                for step, event in enumerate(conversation):
                    stream = event.stream.partition("-")[0]
                    copy.write_row(
                        (step, number, event.version, stream, event.type, event.turn, event.actor, event.data)
                    )
        for first in range(0, rounds, ROUNDS_AT_A_TIME):
            last = min(first + ROUNDS_AT_A_TIME, rounds) - 1
            values = {"head": head, "first": first, "last": last, "owners": OWNERS}
            head += connection.execute(FILL, values).rowcount
        connection.execute("VACUUM (ANALYZE) log")
    return head


if __name__ == "__main__":
    print(fill(sys.argv[1], int(sys.argv[2])))
