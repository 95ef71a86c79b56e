"""The log as a recorder of the `eventsourcing` library, for its applications and projections.

Its events stand among ours: same table, same append, same order. Their conversation, turn and
actor are ''.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, Literal
from uuid import UUID

import psycopg
from eventsourcing import persistence
from eventsourcing.persistence import ApplicationRecorder, ListenNotifySubscription, Notification, StoredEvent
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from infrastructure.postgres import arrays
from infrastructure.postgres.batch import APPEND, NewEvent, Save, Status, parameters
from infrastructure.postgres.connections import appending, arguments
from infrastructure.postgres.notifier import CHANNEL

_EVENTS = """
    SELECT stream, version, type, data FROM log
    WHERE stream = %(stream)s AND version > %(gt)s AND version <= %(lte)s ORDER BY version {} LIMIT %(limit)s
"""
_NOTIFICATIONS = """
    SELECT position, stream, version, type, data FROM log
    WHERE position BETWEEN %(first)s AND %(last)s {} ORDER BY position LIMIT %(limit)s
"""
_SMALLEST_VERSION, _LARGEST_VERSION, _LARGEST_POSITION = -(2**31), 2**31 - 1, 2**63 - 1
# The library's name for each of the driver's errors, the more special ones first.
_ERRORS: Sequence[tuple[type[Exception], type[Exception]]] = (
    (psycopg.InterfaceError, persistence.InterfaceError),
    (psycopg.OperationalError, persistence.OperationalError),
    (PoolTimeout, persistence.OperationalError),
    (PoolClosed, persistence.OperationalError),
    (psycopg.IntegrityError, persistence.IntegrityError),
    (psycopg.DataError, persistence.DataError),
    (psycopg.ProgrammingError, persistence.ProgrammingError),
    (psycopg.Error, persistence.PersistenceError),
)


@contextmanager
def _library_errors() -> Iterator[None]:
    try:
        yield
    except tuple(ours for ours, _ in _ERRORS) as error:
        theirs = next(theirs for ours, theirs in _ERRORS if isinstance(error, ours))
        raise theirs(type(error).__name__) from error


class PostgresRecorder(ApplicationRecorder):
    """Stores and selects the events of an `eventsourcing` application in the log.

    It blocks the thread that calls it. Errors are the library's own (`eventsourcing.persistence`).
    An originator's id is its stream; with `originator_ids="uuid"` ids that are UUIDs come back as such.
    """

    def __init__(
        self, conninfo: str, *, max_size: int = 10, originator_ids: Literal["uuid", "text"] = "uuid"
    ) -> None:
        self.conninfo = conninfo
        self._are_uuids = originator_ids == "uuid"
        self._pool: ConnectionPool[psycopg.Connection[TupleRow]] = ConnectionPool(
            conninfo,
            kwargs=appending(arguments("minutebook recorder", statement_timeout_s=30)),
            configure=arrays.register,
            check=ConnectionPool.check_connection,
            min_size=0,
            max_size=max_size,
            timeout=10,
            open=True,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """Append the events, together; returns their positions, None where there are no events.

        Raises `IntegrityError` when one of the versions, or a later one, is there already.
        """
        if not stored_events:
            return None
        save = _save(stored_events)
        with _library_errors(), self._pool.connection() as connection:
            cursor = connection.cursor(binary=True).execute(APPEND, parameters([save]), prepare=True)
            statuses, firsts, lasts, _stored_at = cursor.fetchone() or ()
            if statuses[0] != Status.STORED:
                raise persistence.IntegrityError("this version, or a later one, is there already")
            with suppress(psycopg.Error):  # it is stored; the news is only a hint
                connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(lasts[0])], prepare=True)
        return list(range(firsts[0], lasts[0] + 1))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the events of one stream in the order of their versions, `desc`: backwards."""
        query = _EVENTS.format("DESC" if desc else "ASC")
        values = {
            "stream": str(originator_id),
            "gt": _SMALLEST_VERSION if gt is None else gt,
            "lte": _LARGEST_VERSION if lte is None else lte,
            "limit": limit,
        }
        rows = self._rows(query, values)
        return [StoredEvent(self._originator_id(stream), *rest) for stream, *rest in rows]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return up to `limit` events in the order of the log, `stop` included."""
        query = _NOTIFICATIONS.format("AND type = ANY(%(topics)s)" if topics else "")
        first = 1 if start is None else start
        values = {
            "first": first if inclusive_of_start or start is None else first + 1,
            "last": _LARGEST_POSITION if stop is None else stop,
            "topics": list(topics),
            "limit": limit,
        }
        return [
            Notification(self._originator_id(stream), version, topic, data, id=position)
            for position, stream, version, topic, data in self._rows(query, values)
        ]

    def max_notification_id(self) -> int | None:
        """Return the newest position, None for an empty log."""
        ((head,),) = self._rows("SELECT position FROM log_head", {})
        return head or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "PostgresSubscription":
        """Return an iterator over the log from after `gt` on, which waits for what is to come."""
        return PostgresSubscription(self, gt, topics)

    def _rows(self, query: str, values: dict[str, Any]) -> list[TupleRow]:
        with _library_errors(), self._pool.connection() as connection:
            return connection.cursor(binary=True).execute(query.encode(), values, prepare=True).fetchall()

    def _originator_id(self, stream: str) -> UUID | str:
        if self._are_uuids and len(stream) == 36:
            try:
                return UUID(stream)
            except ValueError:
                return stream
        return stream


class PostgresSubscription(ListenNotifySubscription[PostgresRecorder]):
    """Follows the log; it is told of news and looks for itself every half second."""

    POLL_S = 0.5

    def __init__(self, recorder: PostgresRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._listening = Thread(target=self._listen)
        self._listening.start()

    def __exit__(self, *args: object, **kwargs: Any) -> None:
        try:
            super().__exit__(*args, **kwargs)
        finally:
            self._listening.join()

    def _listen(self) -> None:
        try:
            with psycopg.connect(self._recorder.conninfo, **arguments("minutebook listen", 0)) as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                while not self._has_been_stopped:
                    self._wait_for_news(connection)
        except BaseException as error:  # noqa: BLE001 - whoever iterates raises it
            self._thread_error = self._thread_error or error
            self.stop()

    def _wait_for_news(self, connection: psycopg.Connection) -> None:
        slices = int(self.POLL_S / 0.1)
        for _ in range(slices):  # in slices, so that a stop is not kept waiting
            if self._has_been_stopped or any(connection.notifies(timeout=0.1, stop_after=1)):
                break
        self._has_been_notified.set()


def _save(stored_events: Sequence[StoredEvent]) -> Save:
    events = [
        NewEvent(str(event.originator_id), event.originator_version, event.topic, "", "", "", event.state)
        for event in stored_events
    ]
    return Save(events, dict.fromkeys((event.stream for event in events), None))
