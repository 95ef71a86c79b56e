"""Imports: what writes conversations of elsewhere into the log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.bootstrap.keys import open_vault
from api.bootstrap.store import appending
from api.settings import Settings
from application.importing import ImportLog
from infrastructure.postgres.importing import PostgresImportLog
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import open_pool


@asynccontextmanager
async def open_import_log(settings: Settings, url: str) -> AsyncIterator[ImportLog]:
    """Open what an import writes to, for the length of the block."""
    vault, _ = await asyncio.to_thread(open_vault, settings, url)
    mapper = MinutesMapper()
    async with appending(url) as appender, open_pool(url, min_size=0) as pool:
        yield PostgresImportLog(
            appender, PostgresLog(pool, mapper.to_logged, KeyStore(pool, vault)), mapper, vault
        )
