"""Readers of feeds, all in this process, and the writer whose events they read. Prints JSON.

`feed_readers PORT READERS steady URL SECONDS`: ten events a second; milliseconds from commit to client.
`feed_readers PORT READERS burst URL EVENTS`: events as fast as they are stored; frames a second.
`feed_readers PORT READERS bare URL EVENTS`: the same frames from a server that does nothing else.
`feed_readers PORT READERS idle URL PID`: KiB a feed costs the process, and its database connections.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import uvloop

from infrastructure.postgres.appender import Appender, NewEvent, Save

EVERY_S, AT_ONCE = 0.1, 50
DATA = json.dumps({
    "message_id": "m", "agent": "coder", "content": "x" * 200, "truncated": False, "finish_reason": "stop",
}).encode()  # fmt: skip
_ID = re.compile(rb"\nid: (\d+)\nevent")
Taken = Callable[[bytes], None]


class Reader(asyncio.Protocol):
    """One feed: gives on what has come once it ends with a whole frame."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._parts: list[bytes] = []
        self.is_open = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.is_open.set()
        self._parts.append(data)
        if data.endswith(b"\n\n\r\n"):
            self._taken(b"".join(self._parts))
            self._parts.clear()


async def opened(port: int, count: int, taken: Taken) -> list[asyncio.Transport]:
    """Open feeds, `AT_ONCE` at a time; returns when each has answered."""
    loop = asyncio.get_running_loop()

    async def one() -> asyncio.Transport:
        transport, reader = await loop.create_connection(lambda: Reader(taken), "127.0.0.1", port)
        transport.write(b"GET /v1/feed HTTP/1.1\r\nHost: localhost\r\n\r\n")
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


async def steady(port: int, readers: int, url: str, seconds: float) -> dict[str, float]:
    came: list[tuple[int, float]] = []
    committed: dict[int, float] = {}

    def taken(data: bytes) -> None:
        now = time.perf_counter()
        came.extend((int(position), now) for position in _ID.findall(data))

    appender = await started(url)
    transports = await opened(port, readers, taken)
    until = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        stored = await appender.append(one_save())
        committed[stored.last_position or 0] = time.perf_counter()
        await asyncio.sleep(EVERY_S - (time.perf_counter() - begun))
    await eventually(lambda: len(came) >= readers * len(committed))
    await finished(transports, appender)
    lags = sorted((at - committed[position]) * 1000 for position, at in came)
    return {"median_ms": lags[len(lags) // 2], "p99_ms": lags[int(len(lags) * 0.99)], "frames": len(lags)}


async def burst(port: int, readers: int, url: str, events: int) -> dict[str, float]:
    frames, last = 0, 0.0

    def taken(data: bytes) -> None:
        nonlocal frames, last
        frames += len(_ID.findall(data))
        last = time.perf_counter()

    appender = await started(url)
    transports = await opened(port, readers, taken)
    begun = time.perf_counter()
    for _ in range(events):
        await appender.append(one_save())
    await eventually(lambda: frames >= readers * events)
    await finished(transports, appender)
    return {"rate": frames / (last - begun), "frames": frames}


async def bare(port: int, readers: int, _url: str, events: int) -> dict[str, float]:
    frames, last = 0, 0.0

    def taken(data: bytes) -> None:
        nonlocal frames, last
        frames += len(_ID.findall(data))
        last = time.perf_counter()

    transports = await opened(port, readers, taken)
    begun = time.perf_counter()
    transports[0].write(b"go")
    await eventually(lambda: frames >= readers * events)
    await finished(transports, None)
    return {"rate": frames / (last - begun), "frames": frames}


async def idle(port: int, readers: int, url: str, pid: int) -> dict[str, float]:
    process = psutil.Process(pid)
    await finished(await opened(port, 50, lambda _: None), None)  # what is made once is made
    await asyncio.sleep(2)
    before, connections = process.memory_info().rss, held(url)
    transports = await opened(port, readers, lambda _: None)
    await asyncio.sleep(2)
    figures = {
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


MODES: dict[str, Callable[..., Any]] = {"steady": steady, "burst": burst, "bare": bare, "idle": idle}


if __name__ == "__main__":
    _, port_, readers_, mode, url_, size = sys.argv
    print(json.dumps(uvloop.run(MODES[mode](int(port_), int(readers_), url_, int(size)))))
