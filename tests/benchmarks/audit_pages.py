"""A page for every filter an auditor has: `python -m tests.benchmarks.audit_pages [EVENTS] [--keep FOLDER]`.

The pages of `python -m tests.benchmarks.audit`, without the exports.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import open_pool
from tests.benchmarks.audit_asked import Log, everything
from tests.benchmarks.kept import asked, big_database
from tests.benchmarks.reads import timed
from tests.opened import vault

Row = tuple[str, str, str, str]
Ask = Callable[[int], Awaitable[Any]]
LIMIT_MS = 50
PAGE = 50  # as many events as the API gives when it is not told


async def measured(url: str, times: int) -> list[Row]:
    """Ask for a page of each; returns (what, figure, ratio, target) rows."""
    log, rows = Log(url, times), list[Row]()
    async with open_pool(url) as pool:
        audit = PostgresAudit(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))
        for name, wanted in everything(log).items():
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


def measure(url: str, times: int = 200) -> list[Row]:
    """Measure every filter, one question after the other."""
    return asyncio.run(measured(url, times))


if __name__ == "__main__":
    told = asked(__doc__, 1_000_000)
    with big_database(told.events, told.keep) as (database, _, built):
        print(built.said())
        for row in measure(database):
            print(" | ".join(row), flush=True)
