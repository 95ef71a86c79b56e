"""The database restarts under load, has no connection left or a clock that jumps: nothing lost or twice."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random

import psycopg
import pytest

from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.asking import query
from tests.integration.streams import until
from tests.integration.test_faults import own_database
from tests.integration.turn_helpers import LEASE_S, accepted, execute
from tests.killing import all_can_go_on, judge, talking, until_none_runs
from tests.replaying import read_log
from tests.serving import Refused, Serving, SseFrame, feed_items, serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

# --- feeds beside it all ---------------------------------------------------------------------------


@asynccontextmanager
async def watched(server: Serving, path: str) -> AsyncIterator[list[SseFrame]]:
    """Collect what a feed says, on one connection, for the length of the block."""
    seen: list[SseFrame] = []

    async def watch() -> None:
        async with (
            server.client.http.stream("GET", path, timeout=None) as response,
            aclosing(feed_items(response)) as items,  # type: ignore[type-var]  # a generator
        ):
            async for item in items:
                seen.append(item)  # noqa: PERF401 (others look on meanwhile)

    watching = asyncio.create_task(watch())
    try:
        yield seen
        assert not watching.done(), "the feed ended"
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def positions(items: Iterable[SseFrame]) -> list[int]:
    return [int(item.id) for item in items if item.id]


async def assert_all_seen(seen: list[SseFrame], database_url: str) -> None:
    """The feed says what the log says: everything, in order, once."""
    log = await asyncio.to_thread(read_log, database_url)
    await until(lambda: len(positions(seen)) >= len(log), 30)
    assert positions(seen) == [row.position for row in log]


# --- the database restarts -------------------------------------------------------------------------


# A commit waits ten seconds for the database to come back: short ones are bridged, the last one is not.
OUTAGES = (0.2, 0.5, 12)


@pytest.mark.may_block("starting the database's server blocks; nothing is measured meanwhile")
async def test_a_database_restarted_under_load_loses_nothing_and_feeds_go_on_by_themselves(
    server_folder: Path,
) -> None:
    with own_database(server_folder) as (postgres, url):
        async with (
            serving_reads(url, lease_s=1, demo_delay_s=0.01) as here,
            serving_reads(url, lease_s=1) as there,
            watched(here, "/v1/feed?after=0") as seen_here,
            watched(there, "/v1/feed?after=0") as seen_there,
        ):
            async with talking(here.url, 8, Random(3)) as said:
                for seconds in OUTAGES:
                    await asyncio.sleep(1.5)
                    await asyncio.to_thread(postgres.stop)
                    await asyncio.sleep(seconds)
                    await asyncio.to_thread(postgres.start)
            await until_none_runs(url, 30)
            await asyncio.to_thread(judge, url, said)
            await all_can_go_on(here.url, said.conversations)
            await assert_all_seen(seen_here, url)
            await assert_all_seen(seen_there, url)
    assert len(said.committed) > 8
    assert said.counts["store_unavailable"] > 0, "nobody noticed"
    assert said.counts["cut"] == 0, "a stream broke off although its server was alive"


# --- the pool is exhausted -------------------------------------------------------------------------


async def test_who_finds_no_connection_is_refused_and_everything_goes_on_afterwards(
    database_url: str,
) -> None:
    async with (
        serving_reads(database_url, pool_size=1) as server,
        watched(server, "/v1/feed?after=0") as seen,
    ):
        client = server.client
        await client.say("hello", conversation_id="c0", turn_id="t0")
        async with await psycopg.AsyncConnection.connect(database_url) as holder:
            await holder.execute("LOCK TABLE turns IN ACCESS EXCLUSIVE MODE")  # whoever asks now waits for us
            asking = [asyncio.create_task(client.say("hello", conversation_id=f"c{n}")) for n in range(4)]
            await until(lambda: query(database_url, WAITING))
            for path in ("/v1/turns/t0", "/v1/conversations/c0/feed"):
                response = await client.http.get(path)
                assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
                assert response.headers["Retry-After"]
            assert (await client.http.get("/health/live")).status_code == 200
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(outcome, Refused):
                assert outcome.code == "store_unavailable"
            else:
                assert not isinstance(outcome, BaseException)
                assert outcome[-1].type == "turn.committed"
        assert (await client.http.get("/v1/turns/t0")).json()["state"] == "committed"
        for number in range(4):
            frames = await client.say("hello", conversation_id=f"c{number}")
            assert frames[-1].type == "turn.committed"
        await assert_all_seen(seen, database_url)


WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND application_name = 'minutebook'"
)


# --- the clock jumps -------------------------------------------------------------------------------

CLOCK = """
    CREATE TABLE public.wall (shift interval NOT NULL);
    INSERT INTO public.wall VALUES ('0');
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + shift FROM public.wall'"""
JUMPS = ("-1 hour", "-1 hour", "2 hours", "-3 days", "0", "1 minute")


async def settable_clock(database_url: str) -> None:
    """Let the database's clock be what a table says, for every connection that is opened from now on."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    await asyncio.to_thread(query, database_url, CLOCK)
    await asyncio.to_thread(
        query, database_url, f"ALTER DATABASE {name} SET search_path = public, pg_catalog"
    )


async def test_a_clock_that_jumps_loses_nothing_and_times_never_go_back(database_url: str) -> None:
    await settable_clock(database_url)
    async with (
        serving_reads(database_url, demo_delay_s=0.005) as server,
        serving_reads(database_url) as other,
        watched(server, "/v1/feed?after=0") as seen,
        watched(other, "/v1/feed?after=0") as seen_there,
    ):
        async with talking(server.url, 6, Random(11)) as said:
            for shift in JUMPS:
                await asyncio.to_thread(query, database_url, "UPDATE wall SET shift = %s::interval", shift)
                await asyncio.sleep(0.8)
        await until_none_runs(database_url, 30)
        await asyncio.to_thread(judge, database_url, said)
        await all_can_go_on(server.url, said.conversations)
        await assert_all_seen(seen, database_url)
        await assert_all_seen(seen_there, database_url)
    times = await asyncio.to_thread(query, database_url, "SELECT recorded_at FROM log ORDER BY position")
    assert times == sorted(times)
    (ahead,) = await asyncio.to_thread(
        query,
        database_url,
        "SELECT max(recorded_at) > pg_catalog.clock_timestamp() + interval '1 hour' FROM log",
    )
    assert ahead == (True,), "the clock never jumped"
    assert len(said.committed) > 6
    assert said.counts.keys() <= {"turn_lost", "turn_abandoned", "turn_in_progress"}, said.counts


async def test_a_turn_that_runs_keeps_its_conversation_while_the_clock_jumps(database_url: str) -> None:
    await settable_clock(database_url)
    async with serving_reads(database_url, demo_delay_s=0.05) as server:
        saying = asyncio.create_task(server.client.say("long 60", conversation_id="c", turn_id="t"))
        await until(lambda: server.house.running.get("t"))
        for shift in ("-1 hour", "0", "-1 day"):
            await asyncio.to_thread(query, database_url, "UPDATE wall SET shift = %s::interval", shift)
            await asyncio.sleep(0.6)  # its lease is renewed more often than that
            with pytest.raises(Refused) as refused:
                await server.client.say("hello", conversation_id="c")
            assert refused.value.code == "turn_in_progress"
        assert (await saying)[-1].type == "turn.committed"


async def test_a_clock_that_is_set_back_leaves_a_turn_whose_process_is_gone_no_more_than_one_lease(
    database_url: str,
) -> None:
    await settable_clock(database_url)
    async with open_pool(database_url) as pool:
        await accepted(PostgresTurns(pool, "gone", LEASE_S))  # nobody will renew it
        turns = PostgresTurns(pool, "here", LEASE_S)
        await execute(pool, "UPDATE wall SET shift = '-3 days'")
        assert await turns.sweep() == [], "its process may be about to renew it"
        await execute(pool, "UPDATE wall SET shift = shift + %s * interval '1 s'", LEASE_S + 1)
        assert await turns.sweep() == ["t1"]
