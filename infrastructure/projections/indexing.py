"""The indexes of the tables that a rebuild has loaded: made side by side, on connections of their own."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import Final

import psycopg

from infrastructure.projections.connecting import connect
from infrastructure.projections.writing import Store

_SETTINGS: Final = b"SET maintenance_work_mem = '256MB'"
# A third of the rows that PostgreSQL would look at; its autovacuum looks at all of them soon enough.
_STATISTICS: Final = b"SET default_statistics_target = 30"


def make_indexes(url: str, store: Store, workers: int, is_hurried: bool) -> None:
    """Make those indexes that are not there yet, then the statistics. Raises `psycopg.Error`.

    Where nobody is in a hurry, one processor has to be enough.
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
        store.wait_for_others(opened[0])
        with ThreadPoolExecutor(len(opened)) as threads:
            list(threads.map(lambda connection: _work(connection, statements), opened))
        opened[0].execute(_STATISTICS)
        store.analyze(opened[0])


def _work(connection: psycopg.Connection, statements: "SimpleQueue[tuple[int, bytes]]") -> None:
    while True:
        try:
            helpers, statement = statements.get_nowait()
        except Empty:
            return
        connection.execute(f"SET max_parallel_maintenance_workers = {helpers}".encode())
        connection.execute(statement)
