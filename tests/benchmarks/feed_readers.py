"""Readers of feeds, all in this process, and the writer whose events they read. Prints JSON.

`feed_readers PORT READERS steady URL PID SECONDS`: ten events a second; milliseconds from commit to client.
`feed_readers PORT READERS burst URL PID EVENTS`: events as fast as they are stored; frames a second.
`feed_readers PORT READERS bare URL PID EVENTS JOINED SECONDS`: the same frames from a server that does
nothing else: so many in each write, so many seconds between two writes.
`feed_readers PORT READERS idle URL PID`: KiB a feed costs the process, and its database connections.
`feed_readers PORT READERS apart URL PID`: the same for feeds of as many conversations, and milliseconds of
processor time that the server takes a second.

All but the last two tell how much processor time the server took for a frame, in microseconds, and how many
frames came in each of its writes.
"""

import asyncio
import gc
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import uvloop

from infrastructure.postgres.appender import Appender, NewEvent, Save

EVERY_S, AT_ONCE, WRITERS = 0.1, 50, 16
DATA = json.dumps({
    "message_id": "m", "agent": "coder", "content": "x" * 200, "truncated": False, "finish_reason": "stop",
}).encode()  # fmt: skip
_ID = re.compile(rb"\nid: (\d+)\nevent")
_END_OF_WRITE = b"\n\n\r\n"


@dataclass
class Taken:
    """What all readers have got: their newest position and the time, and how many writes it came in."""

    came: list[tuple[int, float]] = field(default_factory=list)
    frames: int = 0
    writes: int = 0
    last: float = 0.0

    def __call__(self, data: bytes) -> None:
        self.last = time.perf_counter()
        ids = _ID.findall(data)
        self.frames += len(ids)
        self.writes += data.count(_END_OF_WRITE)
        self.came.extend((int(position), self.last) for position in ids)


class Reader(asyncio.Protocol):
    """One feed: gives on what has come once it ends with a whole frame."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._parts: list[bytes] = []
        self.is_open = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.is_open.set()
        self._parts.append(data)
        if data.endswith(_END_OF_WRITE):
            self._taken(b"".join(self._parts))
            self._parts.clear()


async def opened(
    port: int, count: int, taken: Taken, of: Sequence[str] = ("feed",)
) -> list[asyncio.Transport]:
    """Open feeds, `AT_ONCE` at a time, of these in turn; returns when each has answered."""
    loop, paths = asyncio.get_running_loop(), cycle(of)

    async def one() -> asyncio.Transport:
        transport, reader = await loop.create_connection(lambda: Reader(taken), "127.0.0.1", port)
        transport.write(f"GET /v1/{next(paths)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(30):
            await reader.is_open.wait()
        return transport

    transports: list[asyncio.Transport] = []
    while len(transports) < count:
        transports += await asyncio.gather(*(one() for _ in range(min(AT_ONCE, count - len(transports)))))
    await asyncio.sleep(1)
    return transports


def one_save() -> Save:
    conversation, turn = str(uuid4()), str(uuid4())
    stream = f"conversation-{conversation}"
    type_ = "conversation.assistant_message_sent"
    return Save([NewEvent(stream, 1, type_, conversation, turn, "agent:coder", DATA)], {stream: 0})


def spent(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process has taken so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def told(taken: Taken, seconds: float) -> dict[str, float]:
    return {
        "frames": taken.frames,
        "cpu_us": seconds / taken.frames * 1e6,
        "joined": taken.frames / taken.writes,
    }


async def steady(port: int, readers: int, url: str, pid: int, seconds: float) -> dict[str, float]:
    process, taken = psutil.Process(pid), Taken()
    committed: dict[int, float] = {}
    appender = await started(url)
    transports = await opened(port, readers, taken)
    gc.disable()  # ours is no part of the lag
    before, until = spent(process), time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        stored = await appender.append(one_save())
        committed[stored.last_position or 0] = time.perf_counter()
        await asyncio.sleep(EVERY_S - (time.perf_counter() - begun))
    await eventually(lambda: taken.frames >= readers * len(committed))
    figures = told(taken, spent(process) - before)
    await finished(transports, appender)
    lags = sorted((at - committed[position]) * 1000 for position, at in taken.came)
    return {"median_ms": lags[len(lags) // 2], "p99_ms": lags[int(len(lags) * 0.99)], **figures}


async def burst(port: int, readers: int, url: str, pid: int, events: float) -> dict[str, float]:
    process, taken = psutil.Process(pid), Taken()
    appender = await started(url)
    transports = await opened(port, readers, taken)
    before, begun = spent(process), time.perf_counter()
    for _ in range(int(events) // WRITERS):
        await asyncio.gather(*(appender.append(one_save()) for _ in range(WRITERS)))
    await eventually(lambda: taken.frames >= readers * (events // WRITERS * WRITERS))
    figures = told(taken, spent(process) - before)
    await finished(transports, appender)
    return {"rate": taken.frames / (taken.last - begun), **figures}


async def bare(
    port: int, readers: int, _url: str, pid: int, events: float, joined: float, every_s: float
) -> dict[str, float]:
    process, taken = psutil.Process(pid), Taken()
    transports = await opened(port, readers, taken)
    before, begun = spent(process), time.perf_counter()
    transports[0].write(f"go {joined:.0f} {every_s}".encode())
    await eventually(lambda: taken.frames >= readers * events)
    figures = told(taken, spent(process) - before)
    await finished(transports, None)
    return {"rate": taken.frames / (taken.last - begun), **figures}


async def apart(port: int, readers: int, url: str, pid: int) -> dict[str, float]:
    appender = await started(url)
    names = [f"idle-{number}" for number in range(readers)]
    await asyncio.gather(*(appender.append(beginning(name)) for name in names))
    await appender.stop()
    return await idle(port, readers, url, pid, [f"conversations/{name}/feed" for name in names])


def beginning(conversation: str) -> Save:
    """Return the first event of a conversation of the one who asks."""
    stream = f"conversation-{conversation}"
    event = NewEvent(stream, 1, "conversation.started", conversation, str(uuid4()), "user:local", b"{}")
    return Save([event], {stream: 0})


async def idle(
    port: int, readers: int, url: str, pid: int, of: Sequence[str] = ("feed",)
) -> dict[str, float]:
    process, taken = psutil.Process(pid), Taken()
    await finished(await opened(port, 50, taken, of), None)  # what is made once is made
    await asyncio.sleep(2)
    before, connections = process.memory_info().rss, held(url)
    transports = await opened(port, readers, taken, of)
    took, began = spent(process), time.perf_counter()
    await asyncio.sleep(2)
    figures = {
        "ms_a_second": (spent(process) - took) * 1000 / (time.perf_counter() - began),
        "kib": (process.memory_info().rss - before) / 1024 / readers,
        "before": connections,
        "with": held(url),
    }
    await finished(transports, None)
    return figures


def held(url: str) -> int:
    """Count the connections of the service, whose names begin with its own."""
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'minutebook%'"
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


async def started(url: str) -> Appender:
    appender = Appender(url)
    await appender.start()
    return appender


async def finished(transports: list[asyncio.Transport], appender: Appender | None) -> None:
    for transport in transports:
        transport.close()
    if appender:
        await appender.stop()


async def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.perf_counter() + seconds
    while not true():
        if time.perf_counter() > deadline:
            raise RuntimeError("not all frames came")
        await asyncio.sleep(0.005)


MODES: dict[str, Callable[..., Any]] = {
    "steady": steady,
    "burst": burst,
    "bare": bare,
    "idle": idle,
    "apart": apart,
}


if __name__ == "__main__":
    _, port_, readers_, mode, url_, pid_, *more = sys.argv
    print(json.dumps(uvloop.run(MODES[mode](int(port_), int(readers_), url_, int(pid_), *map(float, more)))))
