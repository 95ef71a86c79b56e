"""The HTTP server: one socket, and a shutdown that lets turns finish first."""

import asyncio
import errno
import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from sse_starlette.sse import AppStatus

from api import log_output
from api.bootstrap.house import House, open_house
from api.direct import DirectSend
from api.settings import Settings, SettingsError
from api.stopping import Stop

BACKLOG = 2048
# Longer than clients and proxies keep an idle connection, so that none of them sends into a closing one.
KEEP_ALIVE_S = 75
CLOSE_S = 2  # how long connections may take to go once every turn has ended
# How long clients may take for what they were sent, where that much of the grace is left; and where none is.
TAKE_S = 1.0
TAKE_AT_LEAST_S = 0.2


def listen(host: str, port: int) -> socket.socket:
    """Take the address, so that a taken one is known before anything else starts. Raises `SettingsError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, what is accepted sends at once: nobody waits for a reader's acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SettingsError(f"Cannot listen on {host}:{port}: {_why_not(error)}.") from None
    return sock


def _why_not(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "somebody listens there already; choose another port, as --port 8001, or 0 for a free one"
        case errno.EACCES:
            return "this port takes more rights; choose one above 1023"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; --host is one of its own"
    return f"{error.strerror or error}"


class Server(uvicorn.Server):
    """Uvicorn, with a first signal that lets running turns end and a second one that does not wait."""

    def __init__(self, house: House, grace_s: float) -> None:
        # Streams end with their turns; the SSE library is not to cut them off when the signal comes.
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # theirs
        config = uvicorn.Config(
            DirectSend(house.app),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=CLOSE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        super().__init__(config)
        self._house = house
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._closing: list[asyncio.Task[None]] = []
        self._grace_until = 0.0

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, in a process that does nothing else."""
        gc.collect()
        gc.freeze()  # what is there now stays: no collection has to look through it again
        await super().serve(sockets)

    @property
    def is_closing(self) -> bool:
        """Whether a signal has come."""
        return bool(self._closing)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `Stop`, which hears them before we serve and after, too."""
        yield

    def hear(self, number: int) -> None:
        """Begin to close on the first signal, hurry on the second."""
        if len(self._closing) < 2:  # more than hurry it cannot
            self.force_exit = bool(self._closing)
            grace_s = 0.0 if self._closing else self._grace_s
            self._grace_until = self._loop.time() + grace_s
            self._closing.append(self._loop.create_task(self._close(grace_s)))

    async def _close(self, grace_s: float) -> None:
        await self._house.running.close(grace_s)
        self._house.live.close()  # who watches is sent elsewhere, with all that has been said here
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let connections go; those whose clients do not take what they were sent are cut off."""
        left_s = self._grace_until - self._loop.time()
        cutting = self._loop.call_later(min(TAKE_S, max(TAKE_AT_LEAST_S, left_s)), self._cut_off_unread)
        await super().shutdown(sockets)
        cutting.cancel()
        self._cut_off_unread()  # a second signal does not wait for the timer
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=TAKE_AT_LEAST_S)

    def _cut_off_unread(self) -> None:
        """Abort what waits for its client; who writes to it goes on, and ends as if the client had gone."""
        for connection in list(self.server_state.connections):
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()


async def serve_house(
    settings: Settings,
    url: str,
    sock: socket.socket,
    on_ready: Callable[[], None],
    stop: Stop,
    make_server: type[Server] = Server,
) -> None:
    """Serve on the socket until a signal comes; `on_ready` is called when it is about to answer."""
    log_output.log_loop_errors(asyncio.get_running_loop())
    async with open_house(settings, url) as house:
        if not stop.is_asked:
            server = make_server(house, settings.grace_s)
            with stop.told(server.hear):
                on_ready()
                await server.serve(sockets=[sock])
