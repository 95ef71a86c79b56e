"""The audit: the log opened for an auditor, with a server or without."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.bootstrap.keys import open_vault
from api.settings import Settings
from application.auditing import Audit
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.audit_questions import PostgresQuestions
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.projections.catching_up import catch_up
from infrastructure.projections.past import PostgresPast
from infrastructure.projections.requests import Requests
from infrastructure.vault import DataKey


@asynccontextmanager
async def open_audit(settings: Settings, url: str, *, is_caught_up: bool = False) -> AsyncIterator[Audit]:
    """Open the log for an auditor, for the length of the block; no server needs to run.

    `is_caught_up` first lets the read model of calls and plans get to the head of the log.
    """
    vault, salt = await asyncio.to_thread(open_vault, settings, url)
    if is_caught_up:
        await catch_up(url, Requests(), vault)
    async with open_pool(url, min_size=0, max_size=2) as pool:
        yield audit_of(pool, MinutesMapper(), KeyStore(pool, vault), vault.purpose("turns", salt))


def audit_of(pool: Pool, mapper: MinutesMapper, keys: KeyStore, payloads: DataKey) -> Audit:
    """Return all that an auditor can ask."""
    log = PostgresAudit(pool, mapper.to_logged, keys, payloads)
    return Audit(log, PostgresPast(pool, mapper, keys), PostgresQuestions(pool, log))
