"""The store: the database as every part of a server reaches it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from application.ports import UnitOfWork
from domain.agent import agent_stream
from domain.conversation import conversation_stream
from infrastructure.postgres.appender import Appender
from infrastructure.postgres.chunks import PostgresChunks
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.loading import Loader
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.postgres.recent import RecentEvents
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from infrastructure.vault import Vault


@asynccontextmanager
async def open_pools(url: str, size: int) -> AsyncIterator[tuple[Pool, Pool]]:
    """Open the pool of turns and that of reads, each of at most `size` connections.

    However slow reads are, turns are accepted and leases renewed.
    """
    async with (
        open_pool(url, max_size=size) as pool,
        open_pool(url, min_size=0, max_size=size, name="minutebook reads") as reading,
    ):
        yield pool, reading


@asynccontextmanager
async def appending(url: str, on_batch: Callable[[int], None] | None = None) -> AsyncIterator[Appender]:
    """Run what appends to the log, for the length of the block; `on_batch` is told each batch's saves."""
    appender = Appender(url, on_batch=on_batch)
    await appender.start()
    try:
        yield appender
    finally:
        await appender.stop()


class Store:
    """What was written, and the ways to it; its keys, and what this process remembers of it."""

    def __init__(
        self,
        url: str,
        node: str,
        pools: tuple[Pool, Pool],
        appender: Appender,
        vault: Vault,
        salt: bytes,
    ) -> None:
        self.url = url
        self.node = node
        self.pool, self.reading = pools
        self.vault = vault
        self.payloads = vault.purpose("turns", salt)
        self.chunks = PostgresChunks(url, self.pool, node, vault.purpose("chunks", salt))
        self.mapper = MinutesMapper()
        self.keys = KeyStore(self.pool, vault)
        self.log = PostgresLog(self.pool, self.mapper.to_logged, self.keys)
        self._appender = appender
        self._recent = RecentEvents()
        self._loader = Loader(self.pool)

    def unit_of_work(self, conversation_id: str, turn_id: str) -> UnitOfWork:
        """Return a unit of work of one turn."""
        return PostgresUnitOfWork(
            *(conversation_id, turn_id, self.node, self._appender, self.pool, self.mapper, self.keys),
            recent=self._recent,
            loader=self._loader,
        )

    def forget(self, conversation_id: str) -> None:
        """Forget the key and the events of a conversation that was erased."""
        self.vault.forget(conversation_id)
        for stream in (conversation_stream(conversation_id), agent_stream(conversation_id)):
            self._recent.forget(stream)
