"""What an auditor waits for: `python -m tests.benchmarks.audit [EVENTS] [--keep FOLDER]`.

In a log of the recorded conversations, copied over and over into hundreds of thousands and sealed as in
service. A log of its own of 1,000,000 events is exported, whole and with its keys, by a process of its own;
beside its rate stands that of a bare COPY of the same columns to nowhere, and its memory is compared with
that of an export of 100,000. A page is
one of 50 events, as many as the API gives; where the other filters leave few, it may end early and say from
where to go on. `python -m tests.benchmarks.audit_pages` measures the pages alone. With `--keep` the log is
built in that folder and used again by the next run, also of `verify`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from infrastructure.exports.operating import check_export, restore_export
from infrastructure.postgres.schema import migrate
from tests.benchmarks import audit_pages
from tests.benchmarks.kept import asked, big_database
from tests.benchmarks.processes import REPOSITORY
from tests.opened import vault
from tests.serving import MASTER_KEY

Row = tuple[str, str, str, str]
FORMS = ("ndjson", "csv", "parquet")
EXPORTED = 1_000_000
FEW = 100_000
MOST_GROWN_MIB = 64
_EXPORT = r"""
import base64, json, re, sys, time
from pathlib import Path
from application.exporting import Selection
from infrastructure.exports.operating import write_export
from infrastructure.vault import Vault

url, form, file, last, key = sys.argv[1:]
vault, selection = Vault(base64.b64decode(key)), Selection(last=int(last) if last else None)
began = time.monotonic()
done = write_export(url, vault, selection, form, Path(file), with_keys=form == "ndjson" and not last)
took = time.monotonic() - began
# Of this program alone; getrusage begins with what the process had before it.
mib = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"rate": done.count / took, "mib": mib, "bytes": done.bytes / done.count}))
"""
_COLUMNS = "position, stream, version, type, conversation, turn, actor, recorded_at, data"


def exported(url: str, form: str, file: Path, last: int | None = None) -> dict[str, float]:
    """Export the first events, or all, in another process; returns events a second, MiB, bytes an event."""
    command = [sys.executable, "-c", _EXPORT, url, form, str(file), str(last or ""), MASTER_KEY]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def copied(url: str) -> float:
    """Return at how many events a second PostgreSQL gives them away."""
    began, count = time.monotonic(), 0
    with psycopg.connect(url) as connection:
        statement = f"COPY (SELECT {_COLUMNS} FROM log ORDER BY position) TO STDOUT (FORMAT binary)"
        with connection.cursor() as cursor:
            with cursor.copy(statement.encode()) as copy:
                for _ in copy:
                    pass
            count = cursor.rowcount
    return count / (time.monotonic() - began)


def exports(url: str, folder: Path, events: int) -> list[Row]:
    """Measure the exports, the check of one and its way back into an empty store."""
    few, limit = min(events, FEW), copied(url)
    rows: list[Row] = [("a bare COPY of the same events to nowhere", f"{limit:,.0f} events/s", "", "")]
    for form in FORMS:
        small = exported(url, form, folder / f"small.{form}", few)
        large = exported(url, form, folder / f"large.{form}")
        figure = f"{large['rate']:,.0f} events/s, {large['bytes']:.0f} bytes each"
        rows.append((f"export of {events:,} as {form}", figure, f"{large['rate'] / limit:.2f}", ""))
        grown = large["mib"] - small["mib"]
        figure = f"{large['mib']:.0f} MiB, and {small['mib']:.0f} MiB for {few:,}"
        rows.append(
            ("its memory; the ratio is the growth", figure, f"{grown:.0f}", f"at most {MOST_GROWN_MIB}")
        )
    return [*rows, *checked(folder / "large.ndjson"), *taken_in(url, folder / "large.ndjson")]


def checked(file: Path) -> Sequence[Row]:
    """Measure the check of an export by its manifest."""
    began = time.monotonic()
    found = check_export(file.with_name(f"{file.name}.manifest.json"), lambda _, __: None)
    assert found.reason is None
    rate = found.bytes / 2**20 / (time.monotonic() - began)
    return [("the check of the NDJSON by its manifest", f"{rate:,.0f} MiB/s", "", "")]


def taken_in(url: str, file: Path) -> Sequence[Row]:
    """Measure the way of an export into an empty database beside the full one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS restored")
        connection.execute("CREATE DATABASE restored")
    empty = url.replace("/minutebook?", "/restored?")
    migrate(empty)
    began = time.monotonic()
    count = restore_export(empty, vault(), file)
    rate = count / (time.monotonic() - began)
    return [("the NDJSON taken into an empty store", f"{rate:,.0f} events/s", "", "")]


def run(events: int = 1_000_000, times: int = 200, keep: Path | None = None) -> list[Row]:
    """Fill a database and measure; returns (what, figure, ratio, target) rows."""
    with big_database(events, keep) as (url, _, built):
        rows = [("the log", built.said(), "", ""), *audit_pages.measure(url, times)]
    with (
        TemporaryDirectory(prefix="minutebook-bench-") as name,
        big_database(min(events, EXPORTED)) as (url, _, built),
    ):
        return [*rows, *exports(url, Path(name), built.events)]


if __name__ == "__main__":
    told = asked(__doc__, 1_000_000)
    for row in run(told.events, keep=told.keep):
        print(" | ".join(row))
