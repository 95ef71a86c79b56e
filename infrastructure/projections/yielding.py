"""How a rebuild makes way: whoever is served by the same database comes first."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import psycopg

# More transactions a second than a server has that nobody asks for anything.
_BUSY: Final = 40
_LOOK_S: Final = 0.5  # between two looks
_REST: Final = 1.0  # seconds of rest for a second of work while others are served
_LONGEST_S: Final = 0.2
_NICENESS: Final = 10
_SHORTEST_SWAP_S, _LONGEST_SWAP_S = 0.1, 2.0  # a query may read the old tables for hours
_AFRESH: Final = b"SELECT pg_stat_clear_snapshot()"  # a transaction sees the same counts all the while
# PostgreSQL counts them with a delay of up to a second.
_COMMITTED: Final = b"SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


def step_back(pid: int | None) -> None:
    """Let other processes of this machine go before this one, where it is there at all."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, pid)))


def pauses() -> Iterator[float]:
    """Yield how long to wait between two swaps (seconds): longer and longer, up to two seconds."""
    longest = _SHORTEST_SWAP_S
    while True:
        yield random.uniform(longest / 5, longest)  # noqa: S311 (so that we do not meet again)
        longest = min(longest * 1.5, _LONGEST_SWAP_S)


class Courtesy:
    """Looks whether a database serves others, and rests in between while it does.

    What one process has seen may be given to another one of this machine.
    """

    def __init__(self) -> None:
        self.is_needed = False
        self._seen: tuple[float, int] | None = None
        self._worked_since = time.monotonic()

    def make_way(self) -> None:
        """Rest for a moment, as long as others are served and we have worked since the last rest."""
        if self.is_needed:
            time.sleep(min((time.monotonic() - self._worked_since) * _REST, _LONGEST_S))
        self._worked_since = time.monotonic()

    def look(self, connection: psycopg.Connection) -> bool:
        """Look again, where the last look is some time ago; returns whether others are served."""
        now = time.monotonic()
        if self._seen is None or now - self._seen[0] >= _LOOK_S:
            connection.execute(_AFRESH, prepare=True)
            row = connection.execute(_COMMITTED, prepare=True).fetchone()
            committed = int(row[0]) if row else 0
            if self._seen:
                since, before = self._seen
                self.is_needed = committed - before > _BUSY * (now - since)
            self._seen = now, committed
        return self.is_needed
