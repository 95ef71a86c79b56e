"""The last traces of erased conversations, taken out of the files of the database."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from domain.errors import MinutebookError
from infrastructure.postgres.horizon import await_horizon
from infrastructure.postgres.pool import Pool
from infrastructure.projections.connecting import connect
from infrastructure.projections.generations import discard
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.rebuild import Progress, Rebuild
from infrastructure.vault import Vault

_log = logging.getLogger(__name__)
_PENDING: Final = """
    SELECT conversation FROM keys.conversations
     WHERE erased_at < clock_timestamp() - %s * interval '1 s' AND scrubbed_at IS NULL"""
_DONE: Final = "UPDATE keys.conversations SET scrubbed_at = clock_timestamp() WHERE conversation = ANY(%s)"
_WAL_FILES: Final = "SELECT max(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
_POLL_S: Final = 2.0
_RETRY_S: Final = 60.0  # after a scrub that was held up
_TURN_S: Final = 0.2
_PATIENCE_S: Final = 60.0
_LONGEST_WAIT_MS: Final = 5_000  # for a lock that holds others up


def _ignore(_: Progress) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Scrubbed:
    """How many erasures were scrubbed, and what we were not allowed to do: sentences for the operator."""

    erasures: int
    left: Sequence[str]


def scrub(
    url: str,
    vault: Vault,
    models: Sequence[ReadModel],
    *,
    is_our_server: bool,
    delay_s: float = 0.0,
    on_progress: Callable[[Progress], None] = _ignore,
    is_cancelled: Callable[[], bool] = _never,
    patience_s: float = _PATIENCE_S,
) -> Scrubbed:
    """Write anew every file that held what was erased at least `delay_s` seconds ago, and drop the old ones.

    Reads and writes go on. A transaction that began before is waited for, up to `patience_s` seconds at
    a time. Of a server that is not ours the write-ahead log is left to its operator. Raises what a rebuild
    raises; what is not done is done the next time.
    """
    with connect(url, "scrub") as connection:
        if not _locked(connection, is_cancelled):
            return Scrubbed(0, _INTERRUPTED)
        pending = [name for (name,) in connection.execute(_PENDING, [delay_s]).fetchall()]
        if not pending:
            return Scrubbed(0, ())
        if not await_horizon(connection, patience_s, is_cancelled):
            return Scrubbed(0, _HELD_UP)
        try:
            if not _build_anew(url, vault, models, on_progress, is_cancelled):
                return Scrubbed(0, _INTERRUPTED)
        except psycopg.errors.InsufficientPrivilege:
            return Scrubbed(0, _NOT_OWNER)
        if not await_horizon(connection, patience_s, is_cancelled):
            return Scrubbed(0, _HELD_UP)
        left = [*_write_anew(connection, "keys.conversations"), *_write_anew(connection, "pg_statistic")]
        left += _end_wal(connection) if is_our_server else [_NOT_OURS]
        connection.execute(_DONE, [pending])
        return Scrubbed(len(pending), left)


def _build_anew(
    url: str,
    vault: Vault,
    models: Sequence[ReadModel],
    on_progress: Callable[[Progress], None],
    is_cancelled: Callable[[], bool],
) -> bool:
    """Build the read models anew; False where it was cancelled."""
    for model in models:
        rebuild = Rebuild(
            url, model, workers=1, on_progress=on_progress, is_cancelled=is_cancelled, vault=vault
        )
        with rebuild.locked() as locked:
            discard(locked, model)  # an unfinished one may have loaded what is erased now
        if rebuild.run() < 0:
            return False
    return True


def _locked(connection: psycopg.Connection, is_cancelled: Callable[[], bool]) -> bool:
    """Take turns with other scrubs; False where it was cancelled.

    Asking again holds no snapshot. A statement that waits does, and the other scrub's VACUUM would keep
    for it what it is to remove.
    """
    while True:
        row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended('scrub', 4))").fetchone()
        if row and row[0]:
            return True
        if is_cancelled():
            return False
        time.sleep(_TURN_S)


_INTERRUPTED: Final = ("the scrub was interrupted; it begins anew the next time",)
_HELD_UP: Final = ("a long transaction (a backup, a query) still sees what was erased; scrub again after it",)
_NOT_OWNER: Final = (
    "files that held it are still there, and this user may not write them; erase it again as their owner",
)
_NOT_OURS: Final = (
    "old pages stay in the server's write-ahead log, its archive and its replicas until these drop them"
)


def _write_anew(connection: psycopg.Connection, table: str) -> list[str]:
    """Write a small table into a new file: what was in its dead rows is gone."""
    try:
        connection.execute(f"SET lock_timeout = {_LONGEST_WAIT_MS}".encode())
        connection.execute(f"VACUUM (FULL, ANALYZE) {table}".encode())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
        return [f"{table} was not written anew ({type(error).__name__}): VACUUM FULL it as its owner"]
    finally:
        connection.execute("SET lock_timeout = 0")
    return []


def _end_wal(connection: psycopg.Connection) -> list[str]:
    """Let every file of the write-ahead log go that was written before now, used again or not."""
    connection.execute("ALTER SYSTEM SET wal_recycle = off")
    try:
        connection.execute("SELECT pg_reload_conf()")
        _await_setting(connection, "off")
        while True:
            connection.execute("SELECT pg_logical_emit_message(false, 'minutebook', 'scrub')")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("SELECT pg_logical_emit_message(false, 'minutebook', 'scrub')")
            row = connection.execute(
                f"SELECT ({_WAL_FILES}) <= pg_walfile_name(pg_current_wal_insert_lsn())".encode()
            ).fetchone()
            if row is None or row[0]:  # no file is left that waits to be used again
                break
        connection.execute("CHECKPOINT")
        connection.execute("CHECKPOINT")
    finally:
        connection.execute("ALTER SYSTEM RESET wal_recycle")
        connection.execute("SELECT pg_reload_conf()")
    return []


def _await_setting(connection: psycopg.Connection, value: str) -> None:
    for _ in range(100):
        row = connection.execute("SHOW wal_recycle").fetchone()
        if row and row[0] == value:
            return
        time.sleep(0.05)


class Scrubber:
    """Scrubs in the background of a server, `delay_s` seconds after an erasure: several share one."""

    def __init__(
        self,
        url: str,
        pool: Pool,
        vault: Vault,
        models: Sequence[ReadModel],
        delay_s: float,
        *,
        is_our_server: bool,
    ) -> None:
        self._url = url
        self._pool = pool
        self._vault = vault
        self._models = models
        self._delay_s = delay_s
        self._is_our_server = is_our_server
        self._stopping = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; where no read model is hosted, scrubbing is left to others."""
        if self._models:
            self._task = asyncio.create_task(self._run(), name="scrubber")

    async def stop(self) -> None:
        """Stop; what a scrub has not done it does the next time."""
        self._stopping.set()
        if self._task:
            await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            pause = _POLL_S
            try:
                if await self._is_due() and not await asyncio.to_thread(self._scrub):
                    pause = _RETRY_S
            except (MinutebookError, psycopg.Error, PoolTimeout, PoolClosed, OSError) as error:
                _log.warning("a scrub did not come to its end: %s", error)
            for _ in range(int(pause / 0.1)):
                if not self._stopping.is_set():
                    await asyncio.sleep(0.1)

    async def _is_due(self) -> bool:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(f"SELECT EXISTS ({_PENDING})".encode(), [self._delay_s])
            row = await cursor.fetchone()
        return bool(row and row[0])

    def _scrub(self) -> bool:
        """Scrub what is due; False where it was held up."""
        done = scrub(
            self._url,
            self._vault,
            self._models,
            is_our_server=self._is_our_server,
            delay_s=self._delay_s,
            is_cancelled=self._stopping.is_set,
        )
        if not done.erasures and done.left:
            _log.warning("a scrub did not come to its end: %s", done.left[0])
            return False
        if done.erasures:
            _log.info("scrubbed %s erasures; left: %s", done.erasures, "; ".join(done.left) or "nothing")
        return True
