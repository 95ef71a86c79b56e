"""How fast a sealed log is verified: `python -m tests.benchmarks.verify [EVENTS] [--keep FOLDER]`.

A log made of the recorded conversations is sealed and then verified by two processes: every event read,
hashed and compared, every checkpoint's root and signature too. Beside it, as limits, two processes that pass
the same bytes through SHA-256 in one go, without a database, and two connections that COPY the same rows to
nowhere.
"""

import resource
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import psycopg

from infrastructure.audit.leaf import COLUMNS, read_leaves
from infrastructure.audit.verify import Verification
from tests.benchmarks.kept import asked, big_database
from tests.sealing import seal, sealed_size, signing_in

WORKERS = 2
SAMPLE = 20_000  # events whose bytes are kept in memory for the bare pass
ROUNDS = 3

Row = tuple[str, str, str, str]


def bare_pass(leaves: bytes, times: int) -> None:
    """Hash the same bytes over and over: the work of one process."""
    hashed = sha256()
    for _ in range(times):
        hashed.update(leaves)
    hashed.digest()


def bare_rate(url: str, events: int) -> tuple[float, float]:
    """Return how many events a second two processes hash at most, and the bytes of one event."""
    count = min(SAMPLE, events)
    with psycopg.connect(url) as connection:
        leaves = b"".join(map(bytes, read_leaves(connection, 0, count)))
    times = max(1, events // count // WORKERS)
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(bare_pass, [b""] * WORKERS, [1] * WORKERS))  # they are there now
        began = time.perf_counter()
        list(pool.map(bare_pass, [leaves] * WORKERS, [times] * WORKERS))
        took = time.perf_counter() - began
    return WORKERS * times * count / took, len(leaves) / count


def copy_rate(url: str, events: int) -> float:
    """Return how many events a second two connections copy to nowhere."""

    def copy(part: int) -> None:
        first, last = part * events // WORKERS, (part + 1) * events // WORKERS
        with psycopg.connect(url) as connection:
            connection.execute(
                f"COPY (SELECT {COLUMNS} FROM log WHERE position > {first} AND position <= {last}"
                " ORDER BY position) TO '/dev/null' (FORMAT binary)"
            )

    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(copy, range(WORKERS)))
    return events / (time.perf_counter() - began)


def verify_rate(url: str, folder: Path, events: int) -> tuple[float, float]:
    """Return how many events a second are verified, and the microseconds of our processors for one."""
    verifiers = signing_in(folder).verifiers()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    found = Verification(url, verifiers, workers=WORKERS).run()
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.is_good, found.findings
    assert found.events == found.sealed == events
    busy = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return events / took, busy / events * 1e6


def sealed_now(url: str, folder: Path, events: int) -> list[Row]:
    """Seal what an earlier run has not; returns how fast that was."""
    with psycopg.connect(url) as connection:
        left = events - sealed_size(connection)
    if not left:
        return []
    began = time.perf_counter()
    seal(url, folder, timeout_s=3600)
    sealed = left / (time.perf_counter() - began)
    return [("sealing, half of one core's time", f"{sealed:,.0f} events/s", "", "")]


def race(url: str, folder: Path, events: int, rounds: int) -> list[Row]:
    """Return the table's rows: what, figure, ratio, target."""
    rows = sealed_now(url, folder, events)
    bare, copied, verified, busy, size = 0.0, 0.0, 0.0, 0.0, 0.0
    for _ in range(rounds):  # each at its best: whatever else the machine does slows all of them down
        rate, size = bare_rate(url, events)
        bare, copied = max(bare, rate), max(copied, copy_rate(url, events))
        rate, used = verify_rate(url, folder, events)
        if rate > verified:
            verified, busy = rate, used
    about = f"{verified:,.0f} events/s ({busy:.2f} µs of our two processes each)"
    return [
        (f"a log of {events:,} events", f"{size:.0f} bytes each", "", ""),
        *rows,
        ("verify, two processes", about, f"{verified:,.0f}", "at least 300,000"),
        ("  of bare SHA-256, two processes", f"{bare:,.0f} events/s", f"{verified / bare:.2f}", ""),
        ("  of bare COPY, two connections", f"{copied:,.0f} events/s", f"{verified / copied:.2f}", ""),
    ]


def run(events: int = 1_000_000, rounds: int = ROUNDS, keep: Path | None = None) -> list[Row]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    with big_database(events, keep) as (url, folder, built):
        return race(url, folder, built.events, rounds)


if __name__ == "__main__":
    told = asked(__doc__, 1_000_000)
    for what, figure, ratio, target in run(told.events, keep=told.keep):
        print(f"{what:38} {figure:60} {ratio:>9}  {target}")
