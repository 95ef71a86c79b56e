"""How a server is: whether it is ready, and what it has counted."""

import asyncio
from contextlib import suppress
from typing import Any

from application.errors import StoreUnavailableError
from application.queries import ApprovalQueries
from application.running import Running
from infrastructure.audit.sealer import Sealer
from infrastructure.metrics import PrometheusMetrics
from infrastructure.postgres.pool import Pool, store_errors
from infrastructure.projections.operating import troubles

READY_S = 2.0  # how long the database may take to answer before it counts as gone


async def readiness(pool: Pool, running: Running, sealer: Sealer) -> dict[str, Any]:
    """Ask the database, for `READY_S` seconds at most.

    A driver that talks to a frozen server takes long to give up; it is left to that, not waited for.
    """
    asking = asyncio.create_task(_answers(pool))
    done, _ = await asyncio.wait({asking}, timeout=READY_S)
    asking.cancel()
    server = "shutting_down" if running.is_closing else "ok"
    projections = asking.result() if done else None
    if projections is None:
        return {"server": server, "database": "unavailable"}
    sealing = sealer.trouble or "ok"
    return {"server": server, "database": "ok", "projections": projections, "sealing": sealing}


async def _answers(pool: Pool) -> dict[str, str] | str | None:
    """Return what has stopped among the read models; None where the database does not answer."""
    try:
        async with store_errors(), pool.connection(timeout=READY_S) as connection:
            return await troubles(connection)
    except StoreUnavailableError:
        return None


async def exposition(metrics: PrometheusMetrics, approvals: ApprovalQueries) -> tuple[bytes, str]:
    """Count what waits, where the database says it in time, and return all that is counted."""
    with suppress(StoreUnavailableError, TimeoutError):
        async with asyncio.timeout(1):
            waiting = (await approvals.waiting()).value
            metrics.approvals_waiting(waiting.count, waiting.oldest)
    return metrics.exposition()
