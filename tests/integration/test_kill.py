"""A server, or its database, killed again and again: what was acknowledged is there, the rest left no trace.

`MINUTEBOOK_TEST_KILLS` makes it longer (default 20), `MINUTEBOOK_TEST_SEED` repeats a run.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.killing import (
    Said,
    all_can_go_on,
    judge,
    judge_positions,
    read_turns,
    talking,
    until_none_runs,
)
from tests.replaying import read_log
from tests.serving import ServerProcess

KILLS = int(os.environ.get("MINUTEBOOK_TEST_KILLS", "20"))
DATABASE_KILLS = max(1, KILLS // 5)
SEED = int(os.environ.get("MINUTEBOOK_TEST_SEED", str(int(time.time()))))
LEASE_S = 1
PEOPLE = 24

pytestmark = [
    pytest.mark.no_cover,  # the server is another process: its lines are not seen
    pytest.mark.timeout(120 + 10 * KILLS),
]


def server(folder: Path, database_url: str) -> ServerProcess:
    return ServerProcess(
        folder, database_url=database_url, lease_s=LEASE_S, demo_delay_s=0.005, log_level="warning"
    )


async def judged(process: ServerProcess, database_url: str, said: Said) -> dict[str, int]:
    """Check all that must be true afterwards; returns how many turns ended how."""
    await until_none_runs(database_url, 3 * LEASE_S + 10)
    ended = await asyncio.to_thread(judge, database_url, said)
    sys.stdout.write(f"{len(said.committed)} acknowledged; {dict(ended)}; {dict(said.counts)}\n")
    await all_can_go_on(process.url, said.conversations)
    await asyncio.to_thread(lambda: judge_positions(read_log(database_url)))
    return ended


async def test_a_server_killed_at_random_moments_loses_nothing_it_acknowledged(
    durable_postgres: str, tmp_path: Path
) -> None:
    sys.stdout.write(f"seed {SEED}, {KILLS} kills\n")
    random = Random(SEED)
    process = server(tmp_path, durable_postgres)
    await asyncio.to_thread(process.start)
    port = int(process.url.rpartition(":")[2])
    try:
        async with talking(process.url, PEOPLE, random) as said:
            for _ in range(KILLS):
                await asyncio.sleep(random.uniform(0.2, 1.5))
                await asyncio.to_thread(process.kill)
                await asyncio.to_thread(process.start, port)
        await judged(process, durable_postgres, said)
    finally:
        await asyncio.to_thread(process.kill)
    assert len(said.committed) > 10 * KILLS
    assert said.counts["cut"] > KILLS
    assert said.counts["turn_abandoned"] > KILLS, "hardly a kill ever hit a running turn"


@contextmanager
def own_database(folder: Path) -> Iterator[tuple[EmbeddedPostgres, str]]:
    with EmbeddedPostgres(folder / "data") as postgres:
        url = postgres.start()
        schema.migrate(url)
        yield postgres, url


def kill_postmaster(postgres: EmbeddedPostgres) -> None:
    pid_file = next(postgres.folder.rglob("postmaster.pid"))
    os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGKILL)


def running_turns(database_url: str) -> int:
    return sum(turn["state"] == "running" for turn in read_turns(database_url).values())


@pytest.mark.may_block("starting the database's server blocks; nothing is measured meanwhile")
async def test_a_database_killed_under_a_server_loses_nothing_it_acknowledged(server_folder: Path) -> None:
    sys.stdout.write(f"seed {SEED}, {DATABASE_KILLS} kills of the database\n")
    random, hit = Random(SEED), 0
    with own_database(server_folder) as (postgres, url), server(server_folder, url) as process:
        async with talking(process.url, PEOPLE, random) as said:
            for _ in range(DATABASE_KILLS):
                await asyncio.sleep(random.uniform(0.5, 2.0))
                hit += await asyncio.to_thread(running_turns, url)
                await asyncio.to_thread(kill_postmaster, postgres)
                await asyncio.sleep(random.uniform(0.0, 1.0))
                await asyncio.to_thread(postgres.start)
            await asyncio.sleep(1.0)
        await judged(process, url, said)
    assert len(said.committed) > 20 * DATABASE_KILLS
    assert hit > 0, "no turn was running when the database was killed"
    assert said.counts["cut"] == 0, "a stream broke off although its server was alive"
