"""How fast feeds are, how many there can be, and what an idle one costs.

1,000 feeds of all events in one process, their readers in another one. Commit to client is measured at ten
events a second to each feed. At saturation, events are stored as fast as one writer can; beside it a bare
asyncio server writes the same prepared bytes to as many sockets, one write a frame. The feed may join what
waits for a reader into one write; that is how it keeps up. They take turns; figures are the medians.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.benchmarks.processes import found_by, served

Row = tuple[str, str, str, str]
Ask = Callable[..., dict[str, float]]


def asking(port: int, url: str, readers: int) -> Ask:
    """Return a function that runs the readers in one of their modes."""
    return lambda mode, size: found_by(
        sys.executable, "feed_readers", str(port), str(readers), mode, url, str(size)
    )


def process_at(port: int) -> int:
    """Return the id of our child process that listens there."""
    for child in psutil.Process().children(recursive=True):
        if any(one.status == "LISTEN" and one.laddr.port == port for one in child.net_connections()):
            return child.pid
    raise RuntimeError(f"nobody listens on {port}")


def saturated(feed: Ask, bare: Ask, events: int, rounds: int) -> list[Row]:
    rates = [(feed("burst", events)["rate"], bare("bare", events)["rate"]) for _ in range(rounds)]
    ours, theirs = (median(column) for column in zip(*rates, strict=True))
    return [
        ("feeds at saturation", f"{ours:,.0f} frames/s", "", ""),
        ("bare server, the same bytes", f"{theirs:,.0f} frames/s", "", ""),
        ("feeds / bare server", "", f"{ours / theirs:.2f}", "at least 0.6"),
    ]


def run(
    readers: int = 1000, idle: int = 5000, seconds: int = 10, events: int = 200, rounds: int = 3
) -> list[Row]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    with (
        tempfile.TemporaryDirectory(prefix="minutebook-bench-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
    ):
        url = postgres.start()
        schema.migrate(url)
        with served("house", url, "100") as port:
            feed = asking(port, url, readers)
            cost = asking(port, url, idle)("idle", process_at(port))
            lag = feed("steady", seconds)
            with served("peers.feed_bare", str(events)) as bare:
                rows = saturated(feed, asking(bare, url, readers), events, rounds)
    lags = f"median {lag['median_ms']:.1f} ms"
    return [
        (f"commit to client, {readers:,} feeds, 10 events/s", lags, "", ""),
        ("its p99, ms", "", f"{lag['p99_ms']:.0f}", "under 100"),
        *rows,
        (f"an idle feed of {idle:,}, KiB", "", f"{cost['kib']:.1f}", "at most 40"),
        (
            "database connections of the server",
            f"{cost['before']:.0f} before, {cost['with']:.0f} beside them",
            "",
            "",
        ),
    ]


if __name__ == "__main__":
    for what, figure, ratio, target in run():
        print(f"{what:46} {figure:24} {ratio:>7}  {target}")
