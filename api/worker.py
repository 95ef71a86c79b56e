"""One of several workers: `python -m api.worker FD` accepts on the socket its parent has opened.

SIGTERM lets running turns end, however often it comes (a supervisor may send it to all processes of a group);
SIGINT does not wait for them. When the parent dies, standard input ends, and so does the worker.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import uvloop

from api import log_output
from api.bootstrap.database import database
from api.bootstrap.workers import SHARED_METRICS, shared_metrics
from api.server import Server, serve_house
from api.settings import Settings, SettingsError, read_settings
from api.stopping import Stop
from api.workers import READY
from domain.errors import MinutebookError

ORPHAN_S = 15.0  # how long a worker without a parent may take to end before it is ended


def main() -> None:
    """Serve until told to stop; what is wrong is one sentence and exit code 1."""
    try:
        with Stop() as stop:
            threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
            _run(stop)
    except (SettingsError, MinutebookError) as error:
        sys.exit(f"minutebook: {error}")
    except psycopg.Error as error:
        sys.exit(f"minutebook: The database did not do it: {type(error).__name__}.")


def _run(stop: Stop) -> None:
    settings = read_settings()
    log_output.configure(settings.log_level)
    with socket.socket(fileno=int(sys.argv[1])) as sock, shared_metrics(Path(os.environ[SHARED_METRICS])):
        _serve(settings, sock, stop)


def _serve(settings: Settings, sock: socket.socket, stop: Stop) -> None:
    with database(settings) as url:
        stop.hold()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_house(settings, url, sock, _ready, stop, WorkerServer))


def _ready() -> None:
    """Tell the parent; what is printed from now on goes where the log goes."""
    with suppress(BrokenPipeError):
        os.write(1, READY)
    os.dup2(2, 1)


def _end_with_parent() -> None:
    """Wait for the end of our standard input, and end as quickly as is in order.

    It is read without Python's buffer, whose lock a waiting thread would hold at the interpreter's end.
    """
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(ORPHAN_S)
    os._exit(1)


class WorkerServer(Server):
    """A server that takes a repeated SIGTERM for the same one, and SIGINT for a hurry."""

    def hear(self, number: int) -> None:
        """Begin to close, or hurry."""
        if number == signal.SIGINT or not self.is_closing:
            super().hear(number)
        if number == signal.SIGINT:
            super().hear(number)


if __name__ == "__main__":
    main()
