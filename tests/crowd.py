"""Many who read and many who write, at once and without a pause, and what they have seen."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import cycle
from random import choice
from typing import Any, Self

import httpx

from tests.serving import Client

ONE = "/v1/conversations/{}"
PATHS = (
    "/v1/conversations", "/v1/usage", "/v1/approvals", "/v1/agents",
    ONE, f"{ONE}/messages", f"{ONE}/approvals", "/v1/messages/search?q=hello",
)  # fmt: skip
HELLO = {"type": "user_message", "content": "hello"}
WRITE = {"type": "user_message", "content": "write a.txt", "agent": "coder"}  # waits for a person


@dataclass
class Seen:
    """What went wrong, and how long each request took. Times are seconds."""

    failures: list[str] = field(default_factory=list)
    steps_back: list[str] = field(default_factory=list)
    reads: list[tuple[float, float]] = field(default_factory=list)  # (when it ended, how long it took)
    writes: int = 0
    approvals: int = 0  # that were waited for

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
        # What there is to be read of: (conversation, a position at which all read models know it).
        self._begun: list[tuple[str, int]] = []
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
                where = self._where(path)
                began = time.monotonic()
                try:
                    response = await http.get(where)
                except httpx.HTTPError as error:
                    self.seen.failures.append(f"{path}: {error!r}")
                    continue
                now = time.monotonic()
                self.seen.reads.append((now, now - began))
                self._judge(path, response, newest)
                await asyncio.sleep(self._pause_s)

    def _where(self, path: str) -> str:
        """Return the address: of some conversation that somebody has begun."""
        if ONE not in path:
            return path
        if not self._begun:
            return PATHS[0]
        conversation, position = choice(self._begun)
        return f"{path.format(conversation)}?min_position={position}"

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
            message: dict[str, Any] = HELLO
            while not self._over:
                try:
                    end = (await client.send(message, **where))[-1]
                except (httpx.HTTPError, AssertionError) as error:
                    self.seen.failures.append(f"message: {error!r}")
                    continue
                if end.type != "turn.committed":
                    self.seen.failures.append(f"message: {end}")
                if not where:
                    where = {"conversation_id": end.data["conversation_id"]}
                    self._begun.append((end.data["conversation_id"], end.data["last_position"]))
                self.seen.writes += 1
                message = self._next(message, end.data["waiting_for"])
                await asyncio.sleep(self._pause_s)

    def _next(self, said: dict[str, Any], waiting: dict[str, Any] | None) -> dict[str, Any]:
        """Say hello, have a file written, and send that back."""
        if waiting and waiting["decisions"]:
            self.seen.approvals += 1
            (call_id, *_) = waiting["decisions"]
            return {"type": "hitl_decision", "call_id": call_id, "decision": "reject"}
        return WRITE if said is HELLO else HELLO
