"""Many who read and many who write, at once and without a pause, and what they have seen."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Self

import httpx

from tests.serving import Client

PATHS = ("/v1/conversations", "/v1/usage", "/v1/approvals", "/v1/agents")


@dataclass
class Seen:
    """What went wrong, and how long each request took. Times are seconds."""

    failures: list[str] = field(default_factory=list)
    steps_back: list[str] = field(default_factory=list)
    reads: list[tuple[float, float]] = field(default_factory=list)  # (when it ended, how long it took)
    writes: int = 0

    def p99(self, began: float, ended: float) -> float:
        """Return the 99th percentile of the reads that ended in this time."""
        took = sorted(seconds for at, seconds in self.reads if began <= at <= ended)
        return took[len(took) * 99 // 100]


class Crowd:
    """Readers and writers at one server, for the length of the block."""

    def __init__(self, url: str, readers: int, writers: int, pause_s: float = 0.0) -> None:
        self.seen = Seen()
        self._url = url
        self._sizes = readers, writers
        self._pause_s = pause_s
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        readers, writers = self._sizes
        works = [self._read() for _ in range(readers)] + [self._write() for _ in range(writers)]
        self._tasks = [asyncio.create_task(work) for work in works]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _read(self) -> None:
        newest: dict[str, int] = {}
        async with httpx.AsyncClient(base_url=self._url, timeout=30, verify=False) as http:
            for path in cycle(PATHS):
                if self._over:
                    return
                began = time.monotonic()
                try:
                    response = await http.get(path)
                except httpx.HTTPError as error:
                    self.seen.failures.append(f"{path}: {error!r}")
                    continue
                now = time.monotonic()
                self.seen.reads.append((now, now - began))
                self._judge(path, response, newest)
                await asyncio.sleep(self._pause_s)

    def _judge(self, path: str, response: httpx.Response, newest: dict[str, int]) -> None:
        if response.status_code != 200:
            self.seen.failures.append(f"{path}: {response.status_code} {response.text[:200]}")
            return
        position = int(response.json()["position"])
        if position < newest.get(path, 0):
            self.seen.steps_back.append(f"{path}: {newest[path]}, then {position}")
        newest[path] = position

    async def _write(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=30, verify=False) as http:
            client, where = Client(http), dict[str, Any]()
            while not self._over:
                try:
                    frames = await client.say("hello", **where)
                except (httpx.HTTPError, AssertionError) as error:
                    self.seen.failures.append(f"message: {error!r}")
                    continue
                if frames[-1].type != "turn.committed":
                    self.seen.failures.append(f"message: {frames[-1]}")
                where = {"conversation_id": frames[-1].data["conversation_id"]}
                self.seen.writes += 1
                await asyncio.sleep(self._pause_s)
