"""A rebuild that is killed or cancelled while its indexes are made: the next one goes on from there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from threading import Event
from typing import ClassVar

import psycopg

from infrastructure.projections.read_model import Table
from infrastructure.projections.rebuild import Rebuild
from tests.asking import query
from tests.projecting import (
    COUNTS,
    NOTES,
    Counting,
    held,
    reference,
    store,
    tables_left,
    talks,
    wait_until,
)

LOCK = 4711
# An index that can be made only while nobody holds the lock. It says of itself what it is not, as it must.
WAITING = f"""
    CREATE FUNCTION public.waiting(number bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN number; END $$"""
MAKING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND query LIKE 'CREATE INDEX%%waiting%%' AND wait_event = 'advisory'"
)
LOCKING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND query LIKE 'LOCK TABLE%%' AND wait_event_type = 'Lock'"
)
REBUILDING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'minutebook rebuild'"
)
INDEXES = (
    "SELECT t.relname, count(*), bool_and(x.indisvalid) FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid"
    " WHERE t.relname IN ('counts', 'notes') GROUP BY t.relname ORDER BY t.relname"
)
ALL_OF_THEM = [("counts", 3, True), ("notes", 1, True)]


class Waiting(Counting):
    """The same, with an index more, which waits for a lock."""

    tables: ClassVar[tuple[Table, ...]] = (
        Table(COUNTS.name, COUNTS.columns, COUNTS.key, (*COUNTS.indexes, "(public.waiting(newest))")),
        NOTES,
    )


def rebuild(url: str) -> None:
    Rebuild(url, Waiting()).run()


@contextmanager
def killed_while_indexing(url: str) -> Iterator[None]:
    """Kill a rebuild in the middle of an index; the server is at it until the context ends."""
    query(url, WAITING)
    head = store(url, talks(500, history=[("receive_user_message", ("m1", "one"))]))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        process = get_context("spawn").Process(target=rebuild, args=(url,))
        process.start()
        try:
            wait_until(lambda: bool(query(url, MAKING)), timeout_s=120)
        finally:
            process.kill()
            process.join()
        assert query(url, "SELECT min(position), max(target) FROM rebuilds") == [(head, head)]
        assert len(tables_left(url)) == len(Waiting.tables)
        wait_until(lambda: not query(url, REBUILDING))
        yield


def assert_all_is_well(url: str) -> None:
    assert held(url, Waiting()) == reference(url, Waiting())
    assert query(url, INDEXES) == ALL_OF_THEM
    assert tables_left(url) == []
    assert query(url, "SELECT * FROM rebuilds") == []
    # The tables of the one that was killed are those that answer now: nothing was loaded twice.
    assert query(url, "SELECT last_value FROM projection_generations") == [(1,)]


def test_the_next_rebuild_waits_for_an_index_that_the_server_still_makes(database_url: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        with killed_while_indexing(database_url):
            next_one = threads.submit(rebuild, database_url)
            wait_until(lambda: next_one.done() or bool(query(database_url, LOCKING)), timeout_s=120)
            assert not next_one.done()
            assert query(database_url, MAKING)
        next_one.result(timeout=120)
    assert_all_is_well(database_url)


def test_the_next_rebuild_makes_an_index_that_the_server_has_given_up(database_url: str) -> None:
    with killed_while_indexing(database_url):
        query(database_url, f"SELECT pg_terminate_backend(pid, 60000) FROM ({MAKING}) AS making")
        assert not query(database_url, MAKING)
    rebuild(database_url)
    assert_all_is_well(database_url)


def test_a_rebuild_that_is_cancelled_while_it_makes_an_index_ends_and_is_resumed(database_url: str) -> None:
    query(database_url, WAITING)
    store(database_url, talks(3))
    cancelled = Event()
    with psycopg.connect(database_url, autocommit=True) as connection, ThreadPoolExecutor(1) as threads:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        run = threads.submit(Rebuild(database_url, Waiting(), is_cancelled=cancelled.is_set).run)
        wait_until(lambda: bool(query(database_url, MAKING)))
        cancelled.set()
        assert run.result(timeout=10) == -1
        assert not query(database_url, MAKING)
    rebuild(database_url)
    assert_all_is_well(database_url)
