"""What it costs to read at 100,000 conversations: the list, a page of a transcript, the search.

`python -m tests.benchmarks.reads [CONVERSATIONS]`. The rows are made in the database and not folded. All are
one person's, which is the hardest case: the words looked for are in one message, in some, or in all of them.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from hashlib import md5
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from application.queries import ConversationFilter, Range, UsageFilter
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.postgres.schema import migrate
from infrastructure.projections.agent_activity import ON, PostgresAgentActivity
from infrastructure.projections.conversation_list import CONVERSATIONS, PostgresConversationList
from infrastructure.projections.pending_approvals import APPROVALS, PostgresApprovals
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.transcript import ENTRIES, TRANSCRIPTS
from infrastructure.projections.transcript_queries import PostgresTranscripts
from infrastructure.projections.usage import USAGE, PostgresUsage
from infrastructure.projections.writing import Store

Row = tuple[str, str, str, str]
ENTRIES_EACH = 10
PERSONS = 1
ASKED = 200
LIMIT_MS = 50  # for a page of the log with any filter; a page of a read model takes no longer

_WORDS = "md5((n * 100 + e)::text)"
# As infrastructure/projections/words.py numbers them: many are common.
_NUMBERS = """
    (SELECT array_agg(DISTINCT (crc32(word::bytea) >> 8)::int) || -1
       FROM regexp_split_to_table(lower(said), ' ') AS word
      WHERE word NOT IN ('i', 'would', 'to', 'the', 'and', 'that', 'their'))"""
FILL = [
    f"""INSERT INTO {CONVERSATIONS.name}
        SELECT 'c' || n, 'person-' || n %% {PERSONS},
               'Conversation number ' || n, 'conversation number ' || n,
               (ARRAY['idle', 'awaiting_decision', 'archived'])[1 + n %% 3], 'agent-' || n %% 6, false,
               '{{}}', NULL, NULL, NULL, 5, 5, 5, {ENTRIES_EACH}, now(), now(), n * {ENTRIES_EACH}
          FROM generate_series(1, %(count)s) AS n""",
    f"""INSERT INTO {TRANSCRIPTS.name}
        SELECT 'c' || n, 'person-' || n %% {PERSONS} FROM generate_series(1, %(count)s) AS n""",
    f"""INSERT INTO {ENTRIES.name}
        SELECT 'c' || n, 'message:' || e, 'person-' || n %% {PERSONS}, n * {ENTRIES_EACH} + e, 'message',
               'user:x', NULL, said, now(), n * {ENTRIES_EACH} + e, '{{"role":"user","message_id":"m"}}',
               NULL, NULL, NULL, {_NUMBERS}
          FROM generate_series(1, %(count)s) AS n CROSS JOIN generate_series(1, {ENTRIES_EACH}) AS e
         CROSS JOIN LATERAL (
            SELECT 'I would like to talk about the flight number ' || n %% 1000 || ' and ' || {_WORDS}
                   || repeat(' some more words that people say about their reservations', 4)) AS t (said)""",
    f"""INSERT INTO {APPROVALS.name}
        SELECT 'c' || n, 'call', 'person-' || n %% {PERSONS}, 'call', n * {ENTRIES_EACH}, now(), 'coder',
               '{{}}'
          FROM generate_series(1, %(count)s) AS n""",
    f"""INSERT INTO {USAGE.name}
        SELECT 'c' || n, (date '2026-01-01' + n %% 90)::text, 'agent-' || n %% 6, 'model-' || n %% 3,
               'person-' || n %% {PERSONS}, 5, 1000, 100, 900
          FROM generate_series(1, %(count)s) AS n""",
    f"""INSERT INTO {ON.name}
        SELECT 'c' || n, 'person-' || n %% {PERSONS}, 'agent-' || n %% 6, NULL, NULL, 'user:x', n, now(),
               5, 1, 1, 1
          FROM generate_series(1, %(count)s) AS n""",
]


def fill(url: str, conversations: int) -> None:
    """Make the tables and their rows, then the indexes, as a rebuild does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'")
        stores = [Store(model) for model in READ_MODELS]
        for store in stores:
            store.create(connection)
        for statement in FILL:
            connection.execute(statement.encode(), {"count": conversations})
        for store in stores:
            store.create_indexes(connection)
        for model in READ_MODELS:
            at = [model.name, model.version, conversations * ENTRIES_EACH]
            connection.execute("INSERT INTO projections (name, version, position) VALUES (%s, %s, %s)", at)
        for table in (CONVERSATIONS, TRANSCRIPTS, ENTRIES, APPROVALS, USAGE, ON):
            connection.execute(f"VACUUM {table.name}".encode())


Ask = Callable[[int], Awaitable[Any]]


def questions(pool: Pool, conversations: int) -> dict[str, Ask]:
    """Return what is asked, each a function of the number of the request."""
    listed, said = PostgresConversationList(pool), PostgresTranscripts(pool)
    approvals, usage, agents = PostgresApprovals(pool), PostgresUsage(pool), PostgresAgentActivity(pool)
    top = conversations * ENTRIES_EACH
    anything = ConversationFilter()

    def person(n: int) -> str:
        return f"person-{n % PERSONS}"

    return {
        "list, first page": lambda n: listed.page(person(n), anything, None, 50),
        "list, a page in the middle": lambda n: listed.page(person(n), anything, top // 2 + n, 50),
        "list, by state": lambda n: listed.page(person(n), ConversationFilter(state="archived"), None, 50),
        "list, a word no title has": lambda n: listed.page(person(n), ConversationFilter("zebra"), None, 50),
        "one conversation": lambda n: listed.one(person(n), f"c{n}"),
        "transcript, newest page": lambda n: said.page(person(n), f"c{n}", Range(newest_first=True), 50),
        "search, a word of one message": lambda n: said.search(person(n), _rare_word(n), None, 20),
        "search, a word of some": lambda n: said.search(person(n), f"number {n % 1000}", None, 20),
        "search, a word of every message": lambda n: said.search(person(n), "flight", None, 20),
        "search, a common word": lambda n: said.search(person(n), "the", None, 20),
        "search, a word of none": lambda n: said.search(person(n), "zebra", None, 20),
        "approvals": lambda n: approvals.page(person(n), None, 50),
        "usage by agent, model and day": lambda n: usage.page(
            ["agent", "model", "day"], UsageFilter(person(n)), None, 50
        ),
        "agents": lambda n: agents.conversations(person(n)),
    }


def _rare_word(n: int) -> str:
    return md5(str(n * 100 + 1).encode(), usedforsecurity=False).hexdigest()


async def timed(ask: Ask, times: int) -> list[float]:
    """Ask one after another; returns milliseconds, sorted."""
    took = []
    for n in range(1, times + 1):
        began = time.perf_counter()
        await ask(n)
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


async def measured(url: str, conversations: int, times: int) -> list[Row]:
    """Ask everything and return a row for each."""
    rows: list[Row] = []
    async with open_pool(url) as pool:
        for name, ask in questions(pool, conversations).items():
            await timed(ask, 5)
            took = await timed(ask, times)
            median, p99 = statistics.median(took), took[int(len(took) * 0.99) - 1]
            rows.append((name, f"{median:.1f} ms, p99 {p99:.1f} ms", f"{p99:.1f}", f"under {LIMIT_MS}"))
    return rows


def run(conversations: int = 100_000, times: int = ASKED) -> list[Row]:
    """Fill a database and measure; returns (what, figure, ratio, target) rows."""
    with TemporaryDirectory(prefix="minutebook-bench-") as folder, EmbeddedPostgres(Path(folder)) as server:
        url = server.start()
        migrate(url)
        fill(url, conversations)
        return asyncio.run(measured(url, conversations, times))


if __name__ == "__main__":
    for row in run(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000):
        print(" | ".join(row))
