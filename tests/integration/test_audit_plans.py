"""A page of any filter is a short walk: no query of it reads or sorts a log as a whole."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from application.audit_filter import event_filter
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.audit_walk import BUDGET, probe_query, walk_of
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
    {"tool": "a_tool", "actor": "user:u1"},
    {"types": ["conversation.*"], "after": 100},  # more than half of everything: along the positions
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
                for node in await explained(connection, walk.query(), values):
                    touched = node["Actual Rows"] * node["Actual Loops"]
                    assert node["Node Type"] not in ("Seq Scan", "Sort") or touched < 100, (given, node)
                    assert touched <= BUDGET + BLOCK * len(walk.keys), (given, order, node)


@pytest.mark.parametrize("is_analyzed", [False, True], ids=["nothing is known", "analyzed"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("types", ["conversation.user_message_received", "conversation.turn_cancelled"]),
        ("actor", ["user:u1"]),
        ("conversation", ["c7"]),
        ("tool", ["a_tool"]),
    ],
)
async def test_to_choose_an_index_only_its_next_entries_are_read(
    big_log: str, pool: Pool, name: str, keys: list[str], is_analyzed: bool
) -> None:
    audit = PostgresAudit(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))
    values = {"keys": keys, "low": 1_000, "high": EVENTS, "probe": 20}
    for newest_first in (False, True):
        async with audit.by_index() as connection:
            if is_analyzed:
                await connection.execute("ANALYZE log, read_tool_events")
            found = await explained(connection, probe_query(name, newest_first), values)
        for node in found:
            assert node["Actual Rows"] * node["Actual Loops"] <= 20 * len(keys), node


async def test_what_is_everywhere_is_looked_for_along_the_positions_and_what_is_rare_along_its_index(
    big_log: str, pool: Pool
) -> None:
    async with pool.connection() as connection:
        await connection.execute("ANALYZE")
    audit = PostgresAudit(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))
    for given, index in (
        ({"types": ["*.user_message_received"]}, "log_pkey"),
        ({"actor": "user:u1", "types": ["*.user_message_received"]}, "log_pkey"),
        ({"types": ["*.turn_cancelled"]}, "log_type"),
        ({"actor": "user:u1", "types": ["*.turn_cancelled"]}, "log_type"),
        ({"actor": "user:u1", "tool": "a_tool"}, "read_tool_events_index0"),
        ({"conversation": "c7", "tool": "a_tool"}, "log_conversation"),
        ({"conversation": "c7", "after": EVENTS - 9_000}, "log_conversation"),
        ({"types": ["*.turn_cancelled"], "after": EVENTS - 3_000}, "log_type"),
    ):
        wanted = event_filter(**given)
        async with audit.by_index() as connection:
            walk = await walk_of(connection, wanted, await audit.bounds(connection, wanted))
            values = {
                **walk.residual, "keys": walk.keys, "budget": BUDGET, "most": 51,
                "low": walk.bounds.low, "high": walk.bounds.high,
            }  # fmt: skip
            used = {node.get("Index Name") for node in await explained(connection, walk.query(), values)}
        assert index in used, (given, used)
        assert ("log_pkey" in used) == (index in ("log_pkey", "read_tool_events_index0")), given


async def explained(
    connection: psycopg.AsyncConnection[Any], query: str, values: dict[str, Any]
) -> list[dict[str, Any]]:
    """Run a query and return every node of its plan, with what it really did."""
    cursor = await connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode(), values)
    row = await cursor.fetchone()
    assert row
    plan = json.loads(row[0]) if isinstance(row[0], str) else row[0]
    return list(nodes(plan[0]["Plan"]))
