"""How fast turns are, whole and over HTTP, beside FastAPI and sse-starlette that store nothing.

A server of its own process with a model that answers at once in five pieces, PostgreSQL with every flush
real, and talkers in a third process, whose conversations have ten turns. The bare endpoint streams the very
bytes that one of these turns streamed. As served, turns are encrypted and sealed, and the read models follow
in the same process; they can follow in another one instead. They take turns, round after round; every figure
is the median of its rounds.
"""

import asyncio
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from uuid import uuid4

import psycopg

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.benchmarks.processes import found_by, served
from tests.benchmarks.talkers import connected, request

ANSWER = 100  # bytes
CONNECTIONS = (1, 32, 128)
TARGETS = {32: "at least 0.3"}
Figures = dict[tuple[str, int], list[dict[str, float]]]


async def one_turn(port: int) -> bytes:
    """Return the frames of one turn, as they came."""
    talker = await connected(port)
    conversation_id = str(uuid4())
    await talker.ask(request(conversation_id, "Hello."))
    answer = await talker.ask(request(conversation_id, "What did we agree on yesterday?"))
    talker.close()
    return unchunked(answer.partition(b"\r\n\r\n")[2])


def unchunked(body: bytes) -> bytes:
    """Return what a chunked body says."""
    said = bytearray()
    while True:
        size, _, body = body.partition(b"\r\n")
        if size == b"0":
            return bytes(said)
        said += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def race(ports: dict[str, int], seconds: float, rounds: int) -> Figures:
    """Let the servers take turns at each number of connections."""
    figures: Figures = defaultdict(list)
    for _ in range(rounds):
        for connections in CONNECTIONS:
            for name, port in ports.items():
                arguments = (str(port), str(connections), str(seconds))
                figures[name, connections].append(found_by(sys.executable, "talkers", *arguments))
    return figures


def rows_of(figures: Figures) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: what, figure, ratio, target."""
    rates = {key: median(one["rate"] for one in found) for key, found in figures.items()}
    rows = []
    for (name, connections), found in figures.items():
        p50, p99 = (median(one[which] for one in found) for which in ("median_ms", "p99_ms"))
        figure = f"{rates[name, connections]:,.0f} turns/s, median {p50:.1f} ms, p99 {p99:.1f} ms"
        rows.append((f"{name}, {connections} at once", figure, "", ""))
    for name, targets in (("turn, as served", TARGETS), ("turn, read models elsewhere", {})):
        for connections in CONNECTIONS:
            ratio = rates[name, connections] / rates["bare endpoint", connections]
            what = f"{name} / bare endpoint, {connections} at once"
            rows.append((what, "", f"{ratio:.2f}", targets.get(connections, "")))
    return rows


def run(seconds: float = 5.0, rounds: int = 3) -> list[tuple[str, str, str, str]]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    with (
        tempfile.TemporaryDirectory(prefix="minutebook-bench-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
    ):
        url = postgres.start()
        schema.migrate(url)
        with (
            served("house", url, str(ANSWER)) as house,
            served("house", another_database(url), str(ANSWER), "projections") as hosting,
        ):
            frames = Path(folder) / "frames"
            frames.write_bytes(asyncio.run(one_turn(house)))
            with served("peers.bare", str(frames)) as bare:
                ports = {
                    "turn, as served": hosting,
                    "turn, read models elsewhere": house,
                    "bare endpoint": bare,
                }
                return rows_of(race(ports, seconds, rounds))


def another_database(url: str) -> str:
    """Make a second database on the same server and return its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE hosting")
    other = url.replace("/minutebook?", "/hosting?")
    schema.migrate(other)
    return other


if __name__ == "__main__":
    for what, figure, ratio, target in run():
        print(f"{what:38} {figure:50} {ratio:>7}  {target}")
