"""A page of 100 events for every filter an auditor has, from a big log."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg

from application.audit import EventFilter
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import open_pool
from tests.benchmarks.reads import timed
from tests.opened import vault

Row = tuple[str, str, str, str]
Ask = Callable[[int], Awaitable[Any]]
LIMIT_MS = 50
PAGE = 100
STEP = 7_919  # a prime: questions are spread over the log


class Log:
    """What there is to ask for: events of the log, spread over all of it."""

    def __init__(self, url: str, times: int) -> None:
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT position, recorded_at FROM log_head").fetchone()
            assert row
            self.head, self.newest = int(row[0]), row[1]
            wanted = [1 + n * STEP % self.head for n in range(times + 8)]
            rows = connection.execute(
                "SELECT position, conversation, stream, turn, actor, recorded_at FROM log"
                " WHERE position = ANY(%s)",
                [wanted],
            ).fetchall()
        self.rows = sorted(rows, key=lambda one: wanted.index(one[0]))

    def at(self, n: int) -> tuple[int, str, str, str, str, datetime]:
        """Return position, conversation, stream, turn, actor and time of some event."""
        row = self.rows[n % len(self.rows)]
        return row[0], row[1], row[2], row[3], row[4], row[5]


def filters(log: Log) -> dict[str, Callable[[int], EventFilter]]:
    """Return every filter, alone and combined, each a function of the number of the question."""
    received, approved = ("conversation.user_message_received",), ("conversation.tool_call_approved",)
    anybody = ("agent:airline", "agent:refunds")
    return {
        "the oldest": lambda _: EventFilter(),
        "the newest": lambda _: EventFilter(newest_first=True),
        "after a position": lambda n: EventFilter(after=log.at(n)[0]),
        "between two positions, newest first": lambda n: EventFilter(
            after=log.at(n)[0], before=log.at(n)[0] + 90_000, newest_first=True
        ),
        "from a time": lambda n: EventFilter(since=log.at(n)[5]),
        "between two times, newest first": lambda n: EventFilter(
            since=log.at(n)[5], until=log.at(n)[5] + timedelta(hours=3), newest_first=True
        ),
        "a conversation": lambda n: EventFilter(conversation=log.at(n)[1]),
        "a stream": lambda n: EventFilter(stream=log.at(n)[2]),
        "a turn": lambda n: EventFilter(turn=log.at(n)[3]),
        "a frequent type": lambda n: EventFilter(types=received, after=log.at(n)[0]),
        "a rare type, newest first": lambda _: EventFilter(
            types=("conversation.started",), newest_first=True
        ),
        "a type there is not one of": lambda _: EventFilter(types=("conversation.archived",)),
        "two types": lambda n: EventFilter(types=received + approved, after=log.at(n)[0]),
        "a person": lambda n: EventFilter(actor=f"user:person-{n % 83:05}-{n % 120:03}"),
        "a frequent agent": lambda n: EventFilter(actor=anybody[0], after=log.at(n)[0]),
        "another agent, newest first": lambda _: EventFilter(actor=anybody[1], newest_first=True),
        "nobody": lambda n: EventFilter(actor=f"user:nobody-{n}"),
        "a tool": lambda n: EventFilter(tool="book_reservation", after=log.at(n)[0]),
        "a tool, newest first": lambda _: EventFilter(tool="get_user_details", newest_first=True),
        "a tool nobody called": lambda n: EventFilter(tool=f"nothing-{n}"),
        "an agent and a type it never has": lambda n: EventFilter(
            actor=anybody[0], types=received, after=log.at(n)[0]
        ),
        "an actor, two types and a time": lambda n: EventFilter(
            actor=log.at(n)[4], types=(*received, "agent.model_called"), since=log.at(n)[5]
        ),
        "a tool and an agent": lambda n: EventFilter(tool="cancel_reservation", actor=anybody[n % 2]),
        "a frequent word": lambda n: EventFilter(text="reservation", after=log.at(n)[0]),
        "a word nobody says": lambda n: EventFilter(text="zebra crossing", after=log.at(n)[0]),
        "a word in a conversation": lambda n: EventFilter(text="the", conversation=log.at(n)[1]),
    }


async def measured(url: str, times: int) -> list[Row]:
    """Ask for a page of each; returns (what, figure, ratio, target) rows."""
    log, rows = Log(url, times), list[Row]()
    async with open_pool(url) as pool:
        audit = PostgresAudit(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))
        for name, wanted in filters(log).items():
            found: list[int] = []

            async def ask(n: int, wanted: Any = wanted, found: list[int] = found) -> None:
                answer = await audit.page(wanted(n), PAGE)
                found.append(len(answer.value.events))

            await timed(ask, 5)
            took = await timed(ask, times)
            p99 = took[max(int(len(took) * 0.99) - 1, 0)]
            figure = (
                f"{statistics.median(took):.1f} ms, p99 {p99:.1f} ms, {statistics.mean(found):.0f} events"
            )
            rows.append((f"page: {name}", figure, f"{p99:.1f}", f"under {LIMIT_MS}"))
    return rows


def run(url: str, times: int = 200) -> list[Row]:
    """Measure every filter, one question after the other."""
    return asyncio.run(measured(url, times))
