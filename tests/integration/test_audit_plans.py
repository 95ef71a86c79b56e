"""A page of any filter is a short walk: no query of it reads or sorts a log as a whole."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from application.audit_filter import event_filter
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.audit_walk import BUDGET, walk_of
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool
from infrastructure.projections.operating import make_tables
from infrastructure.projections.requests import Requests
from tests.opened import vault

EVENTS = 60_000
BLOCK = 4_096  # positions that the index keeps together, and that are sorted together
# A hundred conversations that go on for ever, three people, and a type that comes once in a thousand.
FILL = """
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT n, timestamptz '2026-01-01' + make_interval(secs => n), n / 100 + 1, 'conversation-c' || n %% 100,
           CASE WHEN n %% 1000 = 7 THEN 'conversation.turn_cancelled' WHEN n %% 3 = 0
                THEN 'conversation.user_message_received' ELSE 'conversation.tool_result_received' END,
           'c' || n %% 100, 't' || n, 'user:u' || n %% 3, '{"message_id":"m","content":"hello"}'
      FROM generate_series(1, %s) AS n"""
TOOLS = """
    INSERT INTO read_tool_events SELECT conversation, position, 'a_tool' FROM log
     WHERE type = 'conversation.tool_result_received'"""
FILTERS: list[dict[str, Any]] = [
    {},
    {"conversation": "c7"},
    {"stream": "conversation-c7"},
    {"types": ["conversation.tool_*", "*.turn_cancelled"]},
    {"actor": "user:u1"},
    {"tool": "a_tool"},
    {"since": "2026-01-01T09:00"},
    {"after": 30_000},
    {"actor": "user:u1", "types": ["*.turn_cancelled"]},
    {"actor": "user:u1", "types": ["*.user_message_received"], "until": "2026-01-01T12:00"},
    {"actor": "user:u0", "types": ["*.tool_result_received"]},  # nothing: nobody is ever both
    {"tool": "a_tool", "conversation": "c7"},
]


@pytest.fixture
def big_log(database_url: str) -> str:
    make_tables(database_url, [Requests()])
    with psycopg.connect(database_url) as connection:
        connection.execute(FILL, [EVENTS])
        connection.execute(TOOLS)
        connection.execute("UPDATE projections SET position = %s", [EVENTS])
    return database_url


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


@pytest.mark.parametrize("is_analyzed", [False, True], ids=["nothing is known", "analyzed"])
async def test_no_filter_reads_or_sorts_the_whole_log(big_log: str, pool: Pool, is_analyzed: bool) -> None:
    if is_analyzed:
        async with pool.connection() as connection:
            await connection.execute("ANALYZE")
    audit = PostgresAudit(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))
    for given in FILTERS:
        for order in ("asc", "desc"):
            wanted = event_filter(**given, order=order)
            async with audit.by_index() as connection:
                walk = await walk_of(connection, wanted, await audit.bounds(connection, wanted))
                values = {
                    **walk.residual, "keys": walk.keys, "budget": BUDGET, "most": 51,
                    "low": walk.bounds.low, "high": walk.bounds.high,
                }  # fmt: skip
                query = f"EXPLAIN (ANALYZE, FORMAT JSON) {walk.query()}"
                row = await (await connection.execute(query.encode(), values)).fetchone()
            assert row
            for node in nodes(row[0][0]["Plan"] if not isinstance(row[0], str) else json.loads(row[0])):
                touched = node["Actual Rows"] * node["Actual Loops"]
                assert node["Node Type"] not in ("Seq Scan", "Sort") or touched < 100, (given, node)
                assert touched <= BUDGET + BLOCK * len(walk.keys), (given, order, node)
