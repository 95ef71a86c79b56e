"""All benchmarks: `python -m tests.benchmarks [NAME ...] [--quick]`.

Prints a table and, after a run of all at full length, writes docs/benchmarks.md. A figure says little about
another machine; the ratios compare what ran beside each other on this one.
"""

import argparse
import atexit
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks import (
    append,
    audit,
    feeds,
    long_conversation,
    reads,
    rebuild,
    rebuild_load,
    turn,
    verify,
    words,
)
from tests.benchmarks.processes import PEERS_PYTHON, REPOSITORY

Row = tuple[str, str, str, str]
REPORT = REPOSITORY / "docs" / "benchmarks.md"
BIG = 10_000_000  # events an auditor has to do with


@cache
def big_log() -> Path:
    """Return the folder of the auditor's log, made once in minutes and removed at the end."""
    folder = TemporaryDirectory(prefix="minutebook-bench-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


BENCHMARKS: dict[str, tuple[str, Callable[[], list[Row]], Callable[[], list[Row]]]] = {
    "append": (
        "The append: saves of 4 events of 300 bytes",
        append.run,
        lambda: append.run(seconds=1, rounds=1),
    ),
    "turn": ("A whole turn over HTTP", turn.run, lambda: turn.run(seconds=1, rounds=1)),
    "long_conversation": (
        "A conversation of 1,000 turns",
        long_conversation.run,
        lambda: long_conversation.run(turns=100, rounds=1),
    ),
    "rebuild": ("A rebuild of each read model", rebuild.run, lambda: rebuild.run(events=20_000)),
    "rebuild_load": (
        "What readers notice of rebuilds",
        rebuild_load.run,
        lambda: rebuild_load.run(events=10_000, calm_s=3),
    ),
    "verify": (
        "Verifying a sealed log",
        lambda: verify.run(BIG, keep=big_log()),
        lambda: verify.run(events=20_000, rounds=1),
    ),
    "reads": (
        "Reads at 100,000 conversations of 10 entries",
        reads.run,
        lambda: reads.run(conversations=2_000, times=20),
    ),
    "audit": ("Audit", lambda: audit.run(BIG, keep=big_log()), lambda: audit.run(events=20_000, times=20)),
    "feeds": (
        "Live feeds",
        feeds.run,
        lambda: feeds.run(idle=500, seconds=2, events=50, rounds=1),
    ),
    "words": (
        "A model's words through another process",
        words.run,
        lambda: words.run(turns=2, words=40),
    ),
}
console = Console(width=None if sys.stdout.isatty() else 150)


def verdict(ratio: str, target: str) -> str:
    """Return `yes` or `no`, or nothing where there is no target."""
    bound = re.fullmatch(r"(at least|at most|under) ([\d.,]+)", target)
    if not bound:
        return ""
    value, limit = (float(number.replace(",", "")) for number in (ratio, bound.group(2)))
    met = {"at least": value >= limit, "at most": value <= limit, "under": value < limit}
    return "yes" if met[bound.group(1)] else "no"


def printed(title: str, rows: list[Row]) -> None:
    """Show the table of one benchmark."""
    table = Table("", "figure", "ratio", "target", "met", title=title, title_justify="left")
    for what, figure, ratio, target in rows:
        table.add_row(what, figure, ratio, target, verdict(ratio, target))
    console.print(table)


def machine() -> list[str]:
    """Return what ran it, a line each."""
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", cpu.read_text()) if cpu.exists() else []
    postgres = subprocess.check_output([append.BINARIES / "postgres", "--version"], text=True)
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    load = f"{os.getloadavg()[0]:.1f}"
    return [
        f"{psutil.cpu_count()} cores ({models[0] if models else platform.machine()}), {memory}",
        f"{postgres.strip()}, every flush real; Python {platform.python_version()}, {platform.system()}",
        f"{datetime.now(UTC):%Y-%m-%d}; what ran in the minute before kept {load} cores busy",
    ]


def peers() -> str:
    """Name the peers and their versions."""
    code = (
        "from importlib.metadata import version as v; print(f\"LangGraph {v('langgraph')} with its "
        "PostgresSaver {v('langgraph-checkpoint-postgres')}, Google ADK {v('google-adk')}\")"
    )
    if not PEERS_PYTHON.exists():
        return "LangGraph and Google ADK did not take part: their environment, .venv-bench, is missing"
    done = subprocess.run([PEERS_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return f"eventsourcing {version('eventsourcing')}, {done.stdout.strip()}"


def report(about: list[str], results: dict[str, list[Row]]) -> str:
    """Return the page of the documentation."""
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures, prints these tables and writes this page. Figures depend on the machine; a",
        "ratio compares two that took turns on one machine in one run, and only ratios have targets.",
        "",
        *(f"- {line}" for line in [*about, peers()]),
    ]
    for name, rows in results.items():
        doc = (sys.modules[f"tests.benchmarks.{name}"].__doc__ or "").strip()
        lines += ["", f"## {BENCHMARKS[name][0]}", "", doc, ""]
        lines += ["| | figure | ratio | target | met |", "|---|---|---:|---|---|"]
        lines += [f"| {' | '.join([*row, verdict(row[2], row[3])])} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="short runs, to see that all works; nothing is kept"
    )
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    about, results, started = machine(), {}, time.monotonic()
    names = [name for name in BENCHMARKS if name in asked.names or not asked.names]
    for number, name in enumerate(names, 1):
        title, full, quick = BENCHMARKS[name]
        print(f"{number}/{len(names)} {title} ...", file=sys.stderr)
        results[name] = quick() if asked.quick else full()
        printed(title, results[name])
    console.print("\n".join([*about, f"It took {time.monotonic() - started:.0f} seconds."]))
    if not asked.quick and len(names) == len(BENCHMARKS):
        REPORT.write_text(report(about, results))
        console.print(f"Written to {REPORT.relative_to(REPOSITORY)}.")


if __name__ == "__main__":
    main()
