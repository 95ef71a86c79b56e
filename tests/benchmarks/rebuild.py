"""How fast read models are rebuilt: `python -m tests.benchmarks.rebuild [EVENTS]`.

From a log made of the recorded conversations, with two workers, indexes and swap included; beside the
library's `ProjectionRunner` with the same fold over the first events of the same log, and beside a bare
COPY of the same columns to nowhere, the limit of whoever reads the log. Rates are positions a second.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from eventsourcing.application import Application
from eventsourcing.persistence import ApplicationRecorder, Mapper, StoredEvent, Tracking, Transcoder
from eventsourcing.popo import POPOFactory
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import get_topic
from psycopg.conninfo import conninfo_to_dict

from application.ports import LoggedEvent
from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.key_store import keys_of
from infrastructure.postgres.mapper import MinutesMapper, own_fields
from infrastructure.postgres.recorder import PostgresRecorder
from infrastructure.projections.operating import make_tables
from infrastructure.projections.read_model import ReadModel, Rows
from infrastructure.projections.reading import COLUMNS
from infrastructure.projections.rebuild import Rebuild
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.transcript import ENTRIES, Transcript
from infrastructure.projections.writing import Store
from infrastructure.vault import about_event
from tests.benchmarks.big_log import fill
from tests.opened import vault

WORKERS = 2
PREFIX_S = 4.0  # for how long the library runs
SETTLED_S = 2.0  # until a rebuild does not take the library's transactions for somebody to make way for


# ---------------------------------------------------------------- the library's runner
class OurLog(POPOFactory):
    """The library's in-memory factory, with our log for the events."""

    def application_recorder(self) -> ApplicationRecorder:
        return PostgresRecorder(str(self.env.get("LOG")), originator_ids="text")


class OpeningMapper(MinutesMapper):
    """Opens what is stored, as every reader of the log has to; keys are fetched once a conversation."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._vault = vault()
        self._connection = psycopg.connect(url, autocommit=True)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        stream, version, topic = (
            str(stored_event.originator_id), stored_event.originator_version, stored_event.topic,
        )  # fmt: skip
        conversation = stream.partition("-")[2]
        key = keys_of(self._connection, self._vault, [conversation])[conversation]
        state = key.open(stored_event.state, about_event(stream, version, topic))
        return super().to_domain_event(replace(stored_event, state=state))


class Minutes(Application[str]):
    """Reads our log, in the library's way."""

    def construct_mapper(self) -> Mapper[str]:
        return OpeningMapper(str(self.env.get("LOG")))

    def construct_transcoder(self) -> Transcoder:
        return MinutesMapper().transcoder


class View(PostgresTrackingRecorder):
    """The tables and the tracking of one read model, written together."""

    def fold(self, model: ReadModel, store: Store, event: LoggedEvent, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            rows = Rows(store.load(cursor.connection, set(model.keys(event))))
            model.fold(rows, event)
            store.write(cursor.connection, rows)


class TheirProjection(Projection[View]):
    """The same fold, one event a transaction."""

    name = "theirs"
    model: ClassVar[ReadModel]
    store: ClassVar[Store]
    reached: ClassVar[int] = 0

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        stream = domain_event.originator_id
        event = LoggedEvent(
            tracking.notification_id, stream, domain_event.originator_version, get_topic(type(domain_event)),
            stream.partition("-")[2], "", "user:somebody", self.began, own_fields(domain_event),
        )  # fmt: skip
        self.view.fold(self.model, self.store, event, tracking)
        type(self).reached = tracking.notification_id

    began: ClassVar[Any]


def library_rate(url: str, model: ReadModel, seconds: float = PREFIX_S) -> float:
    """Return how many positions a second the library's runner passes, over the first events."""
    store = Store(model, "__library")
    parts = conninfo_to_dict(url)
    with psycopg.connect(url, autocommit=True) as connection:
        store.drop(connection)
        store.create(connection)
        store.create_indexes(connection)
        connection.execute("DROP TABLE IF EXISTS notification_tracking, theirs_tracking")
        row = connection.execute("SELECT now()").fetchone()
    TheirProjection.model, TheirProjection.store, TheirProjection.reached = model, store, 0
    TheirProjection.topics = tuple(sorted(model.types))
    TheirProjection.began = row[0] if row else None
    environment = {
        "MINUTES_PERSISTENCE_MODULE": "tests.benchmarks.rebuild:OurLog",
        "LOG": url,
        "THEIRS_PERSISTENCE_MODULE": "eventsourcing.postgres",
        "THEIRS_POSTGRES_DBNAME": str(parts["dbname"]),
        "THEIRS_POSTGRES_HOST": str(parts.get("host")),
        "THEIRS_POSTGRES_PORT": str(parts.get("port") or 5432),
        "THEIRS_POSTGRES_USER": str(parts["user"]),
        "THEIRS_POSTGRES_PASSWORD": str(parts.get("password") or ""),
    }
    began = time.perf_counter()
    with ProjectionRunner(
        application_class=Minutes, projection_class=TheirProjection, view_class=View, env=environment
    ) as runner:
        runner.is_interrupted.wait(seconds)
        reached, took = TheirProjection.reached, time.perf_counter() - began
    with psycopg.connect(url, autocommit=True) as connection:
        store.drop(connection)
    return reached / took


# ---------------------------------------------------------------- the limit
def bare_copy_rate(url: str, events: int) -> float:
    """Return how many events a second two connections copy to nowhere."""

    def copy(part: int) -> None:
        first, last = part * events // WORKERS, (part + 1) * events // WORKERS
        with psycopg.connect(url) as connection:
            connection.execute(
                f"COPY (SELECT {COLUMNS} FROM log WHERE position > {first} AND position <= {last}"
                f" ORDER BY position) TO '/dev/null' (FORMAT binary)"
            )

    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(copy, range(WORKERS)))
    return events / (time.perf_counter() - began)


def rebuild_rate(url: str, model: ReadModel, events: int) -> tuple[float, dict[str, float]]:
    """Return how many events a second are rebuilt, and when each phase began (seconds)."""
    phases: dict[str, float] = {}
    began = time.perf_counter()

    def note(phase: str) -> None:
        phases.setdefault(phase, time.perf_counter() - began)

    Rebuild(url, model, workers=WORKERS, on_progress=lambda step: note(step.phase), vault=vault()).run()
    return events / (time.perf_counter() - began), phases


Row = tuple[str, str, str, str]


def search_index(url: str, events: int, rebuilt_s: float) -> list[Row]:
    """Return what the search costs: its index built again by itself, and the rebuild without it."""
    words = next(index for index in ENTRIES.indexes if "gin" in index)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '256MB'")
        began = time.perf_counter()
        connection.execute(f"CREATE INDEX again ON {ENTRIES.name} {words}".encode())
        took = time.perf_counter() - began
        connection.execute("DROP INDEX again")
    return [
        ("  its full-text index by itself", f"{events / took:,.0f} events/s", "", ""),
        ("  without that index", f"{events / (rebuilt_s - took):,.0f} events/s", "", ""),
    ]


def race(url: str, events: int) -> list[Row]:
    """Return the table's rows: what, figure, ratio, target."""
    make_tables(url, READ_MODELS)
    limit = bare_copy_rate(url, events)
    rows = [("bare COPY to nowhere", f"{limit:,.0f} events/s", "", "")]
    for model in READ_MODELS:
        theirs = library_rate(url, model)
        time.sleep(SETTLED_S)
        rate, phases = rebuild_rate(url, model, events)
        loaded = phases.get("indexing", 0.0)
        figure = f"{rate:,.0f} events/s (loading alone {events / loaded:,.0f})" if loaded else f"{rate:,.0f}"
        rows.append((f"rebuild {model.name}", figure, f"{rate:,.0f}", "at least 100,000"))
        rows.append((f"  the library's runner: {theirs:,.0f}", "", f"{rate / theirs:.0f}", "at least 50"))
        rows.append(("  of the bare COPY", "", f"{rate / limit:.2f}", ""))
        if model.name == Transcript.name:
            rows += search_index(url, events, events / rate)
    return rows


def run(events: int = 1_000_000) -> list[Row]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    with (
        tempfile.TemporaryDirectory(prefix="minutebook-bench-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
    ):
        url = postgres.start()
        schema.migrate(url)
        made = fill(url, events, vault())
        return [(f"a log of {made:,} events", "", "", ""), *race(url, made)]


if __name__ == "__main__":
    started: Callable[[], list[Row]] = partial(run, int(sys.argv[1])) if len(sys.argv) > 1 else run
    for what, figure, ratio, target in started():
        print(f"{what:38} {figure:50} {ratio:>7}  {target}")
