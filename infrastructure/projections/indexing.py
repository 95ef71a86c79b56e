"""The indexes of the tables that a rebuild has loaded: made side by side, on connections of their own."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from typing import Final

import psycopg

from infrastructure.projections.connecting import connect
from infrastructure.projections.writing import Store

_SETTINGS: Final = b"SET maintenance_work_mem = '256MB'"
# A third of the rows that PostgreSQL would look at; its autovacuum looks at all of them soon enough.
_STATISTICS: Final = b"SET default_statistics_target = 30"


_POLL_S: Final = 0.2


def make_indexes(
    url: str, store: Store, workers: int, is_hurried: bool, is_cancelled: Callable[[], bool]
) -> bool:
    """Make those indexes that are not there yet, then the statistics; False where it was cancelled.

    Where nobody is in a hurry, one processor has to be enough. Raises `psycopg.Error`.
    """
    statements = SimpleQueue[tuple[int, bytes]]()
    for number, statement in enumerate(store.indexes):
        # The longest one is helped; to help the others, too, would cost more than it gains.
        statements.put((workers - 1 if is_hurried and not number else 0, statement))
    with ExitStack() as stack:
        opened = [
            stack.enter_context(connect(url, "rebuild index")) for _ in range(workers if is_hurried else 1)
        ]
        for connection in opened:
            connection.autocommit = True
            connection.execute(_SETTINGS)
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(_make, store, opened, statements)
            while not made.done():
                wait([made], timeout=_POLL_S)
                if is_cancelled():  # and again, until none is at work
                    _cancel(opened)
            return _is_made(made, is_cancelled)


def _make(
    store: Store, opened: Sequence[psycopg.Connection], statements: "SimpleQueue[tuple[int, bytes]]"
) -> None:
    store.wait_for_others(opened[0])
    with ThreadPoolExecutor(len(opened)) as threads:
        list(threads.map(lambda connection: _work(connection, statements), opened))
    opened[0].execute(_STATISTICS)
    store.analyze(opened[0])


def _cancel(opened: Sequence[psycopg.Connection]) -> None:
    for connection in opened:
        with suppress(psycopg.Error):
            connection.cancel_safe()


def _is_made(made: "Future[None]", is_cancelled: Callable[[], bool]) -> bool:
    try:
        made.result()
    except psycopg.errors.QueryCanceled:
        if not is_cancelled():  # it was somebody else
            raise
        return False
    return True


def _work(connection: psycopg.Connection, statements: "SimpleQueue[tuple[int, bytes]]") -> None:
    while True:
        try:
            helpers, statement = statements.get_nowait()
        except Empty:
            return
        connection.execute(f"SET max_parallel_maintenance_workers = {helpers}".encode())
        connection.execute(statement)
