"""Several workers behind one address: a parent that starts them, replaces the dead and stops them all."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final

import structlog

from api.bootstrap.workers import SHARED_METRICS, forget_worker, new_metrics_folder, shared_metrics
from api.settings import Settings
from api.stopping import Stop

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
# A worker that lived for so long is replaced as quickly as the first time.
STEADY_S: Final = 30.0
# How long workers may take to end beyond the grace of their turns.
PATIENCE_S: Final = 15.0
READY: Final = b"ready\n"

logger = structlog.get_logger("minutebook.workers")


def serve_workers(settings: Settings, sock: socket.socket, on_ready: Callable[[], None], stop: Stop) -> None:
    """Let `settings.workers` processes accept on the socket until a signal comes; blocks.

    `on_ready` is called once, when all of them answer for the first time.
    """
    with shared_metrics(new_metrics_folder()) as variables:
        environment = {**environment_of(settings), **variables}
        asyncio.run(Workers(settings, sock, environment, on_ready).run(stop))


def environment_of(settings: Settings) -> dict[str, str]:
    """Return our environment with exactly these settings, for a worker to read."""
    prefix = str(settings.model_config["env_prefix"])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefix)}
    for name, value in settings:
        if value is not None:
            secret = getattr(value, "get_secret_value", None)
            kept[f"{prefix}{name.upper()}"] = str(secret() if secret else value)
    return kept


class Workers:
    """The worker processes.

    Each has a pipe from us as its standard input, which closes when we die, however we die; it then ends by
    itself. We hold the socket, so that whoever connects while a worker is replaced is accepted by another.
    """

    def __init__(
        self,
        settings: Settings,
        sock: socket.socket,
        environment: Mapping[str, str],
        on_ready: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._fd = sock.fileno()
        self._environment = environment
        self._on_ready = on_ready
        self._not_ready = set(range(settings.workers))
        self._running: set[asyncio.subprocess.Process] = set()
        self._answering: set[asyncio.subprocess.Process] = set()
        self._closing = asyncio.Event()

    async def run(self, stop: Stop) -> None:
        """Keep the workers running until a signal comes, and wait for their end."""
        with stop.told(self._close):
            keeping = [asyncio.create_task(self._keep(number)) for number in range(self._settings.workers)]
            await self._closing.wait()
            await asyncio.wait(keeping, timeout=self._settings.grace_s + PATIENCE_S)
            self._tell(signal.SIGKILL, self._running)
            await asyncio.gather(*keeping)

    def _close(self, _: int) -> None:
        """Let running turns end on the first signal, do not wait for them on the second."""
        if self._closing.is_set():
            self._tell(signal.SIGINT, self._answering)
        else:
            self._tell(signal.SIGTERM, self._running)
        self._closing.set()

    def _tell(self, number: signal.Signals, whom: Collection[asyncio.subprocess.Process]) -> None:
        for process in whom:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closing.is_set():
            began = time.monotonic()
            pid, code = await self._run_one(number)
            if self._closing.is_set():
                return
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > STEADY_S else pause_s
            logger.warning("worker_ended", worker=number, pid=pid, code=code, pause_s=pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _run_one(self, number: int) -> tuple[int, int]:
        """Run a worker to its end; returns its process id and its exit code (-9: killed by signal 9)."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api.worker", str(self._fd)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            pass_fds=[self._fd],
            # Ctrl-C reaches us alone: a worker that heard it twice would not wait for its turns.
            start_new_session=True,
        )
        self._running.add(process)
        if self._closing.is_set():
            self._tell(signal.SIGTERM, [process])
        try:
            await self._until_ready(number, process)
            return process.pid, await process.wait()
        finally:
            self._running.discard(process)
            self._answering.discard(process)
            forget_worker(self._environment[SHARED_METRICS], process.pid)

    async def _until_ready(self, number: int, process: asyncio.subprocess.Process) -> None:
        said = await process.stdout.readline() if process.stdout else b""
        if said != READY:
            return
        self._answering.add(process)
        if number in self._not_ready:
            self._not_ready.discard(number)
            if not self._not_ready:
                self._on_ready()
