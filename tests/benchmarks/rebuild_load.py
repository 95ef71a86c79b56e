"""What readers notice of rebuilds: `python -m tests.benchmarks.rebuild_load [EVENTS]`.

A server as users run it, 50 readers and 20 writers with pauses, as people make them; first alone, then
through three rebuilds of all read models by the command line. Nothing may fail or go back in time.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.key_store import settle_master
from infrastructure.projections.operating import make_tables
from infrastructure.projections.rebuild import Rebuild
from infrastructure.projections.registry import READ_MODELS
from tests.benchmarks.big_log import fill
from tests.crowd import Crowd
from tests.opened import vault
from tests.serving import MASTER_KEY, REPOSITORY, ServerProcess

Row = tuple[str, str, str, str]


def rebuild_all(folder: Path, url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MINUTEBOOK_DATABASE_URL": url}
    environment |= {"MINUTEBOOK_MASTER_KEY": MASTER_KEY}
    command = [sys.executable, "-m", "api", "rebuild", "--json"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)


async def race(folder: Path, url: str, pause_s: float, calm_s: float) -> list[Row]:
    """Return the table's rows: what, figure, ratio, target."""
    with ServerProcess(folder, database_url=url, demo_delay_s=0.01) as server:
        async with Crowd(server.url, readers=50, writers=20, pause_s=pause_s) as crowd:
            await asyncio.sleep(3)  # warm
            began = time.monotonic()
            await asyncio.sleep(calm_s)
            middle = time.monotonic()
            for _ in range(3):
                await asyncio.to_thread(rebuild_all, folder, url)
            ended = time.monotonic()
    seen = crowd.seen
    calm, busy = seen.p99(began, middle), seen.p99(middle, ended)
    return [
        ("reads without a rebuild", f"p99 {calm * 1000:.0f} ms", "", ""),
        ("reads through three rebuilds", f"p99 {busy * 1000:.0f} ms", f"{busy / calm:.1f}", "at most 2"),
        ("requests that failed", "", str(len(seen.failures)), "at most 0"),
        ("answers that went back in time", "", str(len(seen.steps_back)), "at most 0"),
        (
            "reads, messages, seconds of rebuilds",
            f"{len(seen.reads)}, {seen.writes}, {ended - middle:.0f}",
            "",
            "",
        ),
    ]


def run(events: int = 100_000, pause_s: float = 1.0, calm_s: float = 15.0) -> list[Row]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    with tempfile.TemporaryDirectory(prefix="minutebook-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "data") as postgres:
            url = postgres.start()
            schema.migrate(url)
            settle_master(url, vault())  # before the keys of what is filled in, which no other may open
            made = fill(url, events, vault())
            make_tables(url, READ_MODELS)
            for model in READ_MODELS:
                Rebuild(url, model, vault=vault()).run()
            rows = asyncio.run(race(folder, url, pause_s, calm_s))
            return [(f"a log of {made:,} events", "", "", ""), *rows]


if __name__ == "__main__":
    for what, figure, ratio, target in run(*map(int, sys.argv[1:2])):
        print(f"{what:38} {figure:40} {ratio:>7}  {target}")
