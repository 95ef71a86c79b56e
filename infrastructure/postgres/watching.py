"""The embedded PostgreSQL, looked after by a process that serves: killed, it is started again."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from infrastructure.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError

_log = logging.getLogger(__name__)
LOOK_S: Final = 0.5  # between two looks at its process
_LONGEST_PAUSE_S: Final = 60.0  # where it cannot be started again: a full disk may be emptied


@contextmanager
def watched(server: EmbeddedPostgres) -> Iterator[None]:
    """Start the server again whenever it has died, for the length of the block.

    Whoever leaves the block while it is being started waits for that, two minutes at most.
    """
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(server, over), name="embedded PostgreSQL")
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _watch(server: EmbeddedPostgres, over: threading.Event) -> None:
    pause_s = LOOK_S
    while not over.wait(pause_s):
        try:
            if server.revive():
                _log.warning("the embedded PostgreSQL had died and was started again")
            pause_s = LOOK_S
        except EmbeddedPostgresError as error:
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            _log.error("the embedded PostgreSQL has died, next try in %g s: %s", pause_s, error)
