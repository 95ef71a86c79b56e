"""Erasing, for an operator: a conversation, and then the files that held it."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import psycopg

from api.bootstrap.keys import open_vault
from api.settings import Settings
from application.erasing import Erasure
from infrastructure.postgres.erasing import PostgresEraser
from infrastructure.postgres.pool import open_pool
from infrastructure.projections.operating import Progress
from infrastructure.projections.purging import purge
from infrastructure.projections.registry import READ_MODELS
from infrastructure.scrubbing import Scrubbed, scrub

# Whoever has the settings is whoever the server takes for somebody when nobody has to say who they are.
OPERATOR: Final = "user:local"
__all__ = ["Progress", "erase_conversation", "purging", "scrub_erased"]


async def erase_conversation(
    settings: Settings, url: str, conversation_id: str, reason: str | None
) -> Erasure:
    """Erase a conversation, whosever it is, for an operator. Raises what the endpoint says."""
    await asyncio.to_thread(open_vault, settings, url)
    async with open_pool(url, min_size=1, max_size=1) as pool:
        eraser = PostgresEraser(pool, f"erase:{os.getpid()}", lambda _: None, purging)
        return await eraser.erase(conversation_id, None, OPERATOR, reason)


async def purging(connection: psycopg.AsyncConnection[Any], conversation_id: str, receipt: int) -> None:
    """Take a conversation's rows out of all read models that have not come to its receipt."""
    await purge(connection, READ_MODELS, conversation_id, receipt)


def scrub_erased(settings: Settings, url: str, on_progress: Callable[[Progress], None]) -> Scrubbed:
    """Write anew the files that held what was erased (`infrastructure.scrubbing`)."""
    vault, _ = open_vault(settings, url)
    ours = settings.database_url is None
    return scrub(url, vault, READ_MODELS, is_our_server=ours, on_progress=on_progress)
