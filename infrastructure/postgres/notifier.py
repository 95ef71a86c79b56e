"""The hint that there is something new in the log."""

import asyncio
import contextlib

import psycopg

from infrastructure.postgres.connections import arguments
from infrastructure.postgres.wire import Wire

CHANNEL = "minutebook_log"
PATIENCE_S = 5.0
_NOTIFY, _TEXT = f"SELECT pg_notify('{CHANNEL}', $1)", 25


class Notifier:
    """Says on `minutebook_log` how far the log goes, at most once in `pause_s` seconds.

    It never waits with an append: NOTIFY takes a lock of the whole cluster through its flush. It
    has a connection of its own, and whatever goes wrong is forgotten: readers also poll.
    """

    def __init__(self, conninfo: str, pause_s: float = 0.01) -> None:
        self._conninfo = conninfo
        self._pause_s = pause_s
        self._head = 0
        self._told = 0
        self._is_over = False
        self._news = asyncio.Event()
        self._connection: psycopg.AsyncConnection | None = None

    def tell(self, head: int) -> None:
        """Announce this position soon, or a later one."""
        self._head = max(self._head, head)
        self._news.set()

    def stop(self) -> None:
        """Let `run` end when it has announced what it was told last."""
        self._is_over = True
        self._news.set()

    async def run(self) -> None:
        """Announce until stopped."""
        try:
            while not self._is_over:
                await self._news.wait()
                self._news.clear()
                await self._announce()
                await asyncio.sleep(self._pause_s)
            await self._announce()
        finally:
            await self._close()

    async def _announce(self) -> None:
        head = self._head
        if head == self._told:
            return
        try:
            wire = await self._connected()
            await wire.row([str(head).encode()], PATIENCE_S)
            self._told = head
        except (psycopg.Error, OSError):
            await self._close()
            await asyncio.sleep(1)

    async def _connected(self) -> Wire:
        if self._connection is None:
            settings = arguments("minutebook notify", statement_timeout_s=PATIENCE_S)
            settings["options"] += " -c synchronous_commit=off"  # a lost hint is not waited for
            self._connection = await psycopg.AsyncConnection.connect(self._conninfo, **settings)
            self._wire = Wire(self._connection, _NOTIFY, [_TEXT])
        return self._wire

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire.release()
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()
