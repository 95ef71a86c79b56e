"""How fast feeds are, how many there can be, and what an idle one costs.

1,000 feeds of all events in one process, their readers in another one. Commit to client is measured at ten
events a second to each feed. At saturation, events are stored as fast as 16 writers can, and the feed joins
what it reads together into one write. Beside it a bare asyncio server writes the same prepared bytes to as
many sockets: frame by frame, and with as many frames in a write as the feed had, which is like for like. They
take turns; figures are the medians. Processor time is what a server took for a frame, which does not depend
on what else the machine does.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.benchmarks.feed_readers import EVERY_S
from tests.benchmarks.processes import found_by, served

Row = tuple[str, str, str, str]
Figures = dict[str, float]
Ask = Callable[..., Figures]


def asking(port: int, url: str, readers: int) -> Ask:
    """Return a function that runs the readers in one of their modes."""
    pid = str(process_at(port))
    return lambda mode, *sizes: found_by(
        sys.executable, "feed_readers", str(port), str(readers), mode, url, pid, *map(str, sizes)
    )


def process_at(port: int) -> int:
    """Return the id of our child process that listens there."""
    for child in psutil.Process().children(recursive=True):
        if any(one.status == "LISTEN" and one.laddr.port == port for one in child.net_connections()):
            return child.pid
    raise RuntimeError(f"nobody listens on {port}")


def middle(found: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {name: median(one[name] for one in found) for name in found[0]}


def saturated(feed: Ask, bare: Ask, events: int, rounds: int) -> list[Row]:
    ours, single, alike = [], [], []
    for _ in range(rounds):
        ours.append(feed("burst", events))
        single.append(bare("bare", events, 1, 0))
        alike.append(bare("bare", events, max(1, round(ours[-1]["joined"])), 0))
    feeds, by_one, joined = middle(ours), middle(single), middle(alike)
    return [
        ("feeds at saturation", f"{feeds['rate']:,.0f} frames/s, {feeds['joined']:.1f} a write", "", ""),
        ("bare server, frame by frame", f"{by_one['rate']:,.0f} frames/s", "", ""),
        ("bare server, joined as the feed", f"{joined['rate']:,.0f} frames/s", "", ""),
        (
            "processor time of a frame",
            f"{feeds['cpu_us']:.1f} us, bare {by_one['cpu_us']:.1f} and {joined['cpu_us']:.1f} us",
            "",
            "",
        ),
        ("feeds / bare server, frame by frame", "", f"{feeds['rate'] / by_one['rate']:.2f}", "at least 0.6"),
        ("feeds / bare server, as many writes", "", f"{feeds['rate'] / joined['rate']:.2f}", "at least 0.6"),
    ]


def paced(lag: Figures, bare: Figures, readers: int) -> list[Row]:
    both = f"{lag['cpu_us']:.1f} us, bare {bare['cpu_us']:.1f} us"
    return [
        (
            f"commit to client, {readers:,} feeds, 10 events/s",
            f"median {lag['median_ms']:.1f} ms",
            "",
            "",
        ),
        ("its p99, ms", "", f"{lag['p99_ms']:.0f}", "under 100"),
        ("processor time of a frame", both, f"{bare['cpu_us'] / lag['cpu_us']:.2f}", ""),
    ]


def idling(url: str, idle: int) -> list[Row]:
    cost, apart = (in_a_server_of_its_own(url, mode, idle) for mode in ("idle", "apart"))
    return [
        (f"an idle feed of {idle:,}, KiB", "", f"{cost['kib']:.1f}", "at most 40"),
        ("database connections of the server", connections(cost), "", ""),
        (f"an idle feed of one of {idle:,} conversations, KiB", "", f"{apart['kib']:.1f}", "at most 40"),
        ("database connections of the server", connections(apart), "", ""),
        ("processor time of the server with them", f"{apart['ms_a_second']:.0f} ms a second", "", ""),
    ]


def in_a_server_of_its_own(url: str, mode: str, readers: int) -> Figures:
    """Measure in a process whose memory nobody has used before."""
    with served("house", url, "100") as port:
        return asking(port, url, readers)(mode)


def connections(cost: Figures) -> str:
    return f"{cost['before']:.0f} before, {cost['with']:.0f} beside them"


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
        rows = idling(url, idle) if idle else []
        with served("house", url, "100") as port, served("peers.feed_bare", str(events)) as bare_port:
            feed, bare = asking(port, url, readers), asking(bare_port, url, readers)
            lag = feed("steady", seconds)
            alone = bare("bare", events, 1, EVERY_S)
            return [*paced(lag, alone, readers), *saturated(feed, bare, events, rounds), *rows]


if __name__ == "__main__":
    for what, figure, ratio, target in run():
        print(f"{what:46} {figure:34} {ratio:>7}  {target}")
