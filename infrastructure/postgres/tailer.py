"""The one reader of a process that follows the log: a LISTEN for hints, a poll behind it."""

import asyncio
from collections.abc import Callable

import psycopg
import structlog
from psycopg.rows import class_row

from application.live import LiveFeed
from domain.conversation import Conversation
from infrastructure.postgres.chunks import CHUNKS_CHANNEL
from infrastructure.postgres.connections import arguments
from infrastructure.postgres.notifier import CHANNEL
from infrastructure.postgres.rows import Decode, Opening, Row, shown

PAGE = 1000
_PAGE = (
    "SELECT position, stream, version, type, conversation, turn, actor, recorded_at, data"
    " FROM log WHERE position > %b ORDER BY position LIMIT %b"
)
# How far the log is, and what was erased since: all that is to know where nobody watches.
_HEAD = """
    SELECT head.position,
           ARRAY(SELECT conversation FROM log
                  WHERE type = %s AND position >> 12 >= %s::bigint >> 12
                    AND position > %s AND position <= head.position)
      FROM log_head AS head"""
ERASED = Conversation.Erased.TOPIC


def _ignore(_: str) -> None:
    return None


logger = structlog.get_logger("minutebook.tailer")


class Tailer:
    """Follows the log from where it stands now, and tells what is new; times are seconds.

    Notifications are hints: without them everything still comes within `poll_s`. The connection
    comes back by itself, and goes on behind the last event it has told.
    """

    def __init__(
        self,
        conninfo: str,
        decode: Decode,
        live: LiveFeed,
        on_chunks: Callable[[], None],
        poll_s: float = 0.2,
        keys: Opening | None = None,
        on_erased: Callable[[str], None] = _ignore,
    ) -> None:
        self._conninfo = conninfo
        self._decode = decode
        self._live = live
        self._on_chunks = on_chunks
        self._poll_s = poll_s
        self._keys = keys
        self._on_erased = on_erased
        self._task: asyncio.Task[None] | None = None
        self.position = 0

    def start(self, position: int) -> None:
        """Begin to follow, after this position."""
        self.position = position
        self._task = asyncio.create_task(self._run(), name="tailer")

    async def stop(self) -> None:
        """Stop following."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = 0.05
        while True:
            try:
                async with await self._connected() as connection:
                    pause = 0.05
                    await self._follow(connection)
            except (psycopg.Error, OSError):
                logger.warning("tailer_disconnected", position=self.position)
            except Exception:
                logger.exception("tailer_broke", position=self.position)
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _connected(self) -> psycopg.AsyncConnection:
        settings = arguments("minutebook tailer", statement_timeout_s=30)
        return await psycopg.AsyncConnection.connect(self._conninfo, **settings)

    async def _follow(self, connection: psycopg.AsyncConnection) -> None:
        for channel in (CHANNEL, CHUNKS_CHANNEL):
            await connection.execute(f"LISTEN {channel}".encode())
        while True:
            while await self._tell_page(connection) == PAGE:
                pass
            async for hint in connection.notifies(timeout=self._poll_s, stop_after=1):
                if hint.channel == CHUNKS_CHANNEL:
                    self._on_chunks()

    async def _tell_page(self, connection: psycopg.AsyncConnection) -> int:
        if not self._live.has_readers:
            head = await self._tell_erased(connection)
            if not self._live.has_readers:  # nobody came while we asked: what was stored is nobody's news
                self.position = max(self.position, head)
                self._live.pass_over(self.position)
                return 0
        cursor = connection.cursor(binary=True, row_factory=class_row(Row))
        await cursor.execute(_PAGE, (self.position, PAGE), prepare=True)
        rows = await cursor.fetchall()
        if rows:
            for row in rows:
                if row.type == ERASED:
                    self._on_erased(row.conversation)
            await self._live.publish(await shown(rows, self._decode, self._keys))
            self.position = rows[-1].position
        return len(rows)

    async def _tell_erased(self, connection: psycopg.AsyncConnection) -> int:
        """Tell what was erased: that is everybody's news, also where nobody watches. Returns the head."""
        cursor = await connection.execute(_HEAD, (ERASED, self.position, self.position), prepare=True)
        ((head, erased),) = await cursor.fetchall()
        for conversation in erased:
            self._on_erased(conversation)
        return int(head)
