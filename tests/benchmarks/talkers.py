"""Many people who talk at once: `python -m tests.benchmarks.talkers PORT CONNECTIONS SECONDS` prints JSON.

Each keeps a connection and says the next thing as soon as the answer is whole; after ten turns it begins a
new conversation. Written on bare sockets: what a client costs must not pass for what a server costs.
"""

import asyncio
import json
import sys
import time
from itertools import count
from typing import cast
from uuid import uuid4

import uvloop

COMMITTED = b"event: turn.committed\n"
WHOLE = b"\r\n0\r\n\r\n"  # the last chunk of a chunked answer
WARM_UP_S = 1.0
TURNS = 10  # a conversation


def request(conversation_id: str, content: str) -> bytes:
    """Return a user message as it goes over the wire."""
    message = {"type": "user_message", "content": content}
    body = json.dumps({"conversation_id": conversation_id, "message": message}).encode()
    head = (
        "POST /v1/messages/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Talker(asyncio.Protocol):
    """One connection: a message goes out, an answer comes back whole."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answered: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast("asyncio.Transport", transport)  # not its subclass, in every loop

    def data_received(self, data: bytes) -> None:
        """Gather the answer and hand it over once it is whole."""
        self._received += data
        if self._received.endswith(WHOLE) or not self._received.startswith(b"HTTP/1.1 200"):
            answer, self._received = bytes(self._received), bytearray()
            if self._answered and not self._answered.done():
                self._answered.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if self._answered and not self._answered.done():
            self._answered.set_exception(ConnectionError("the server hung up"))

    async def ask(self, asked: bytes) -> bytes:
        """Send a request and return the whole answer; raises RuntimeError where no turn was committed."""
        assert self._transport
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(asked)
        answer = await self._answered
        if COMMITTED not in answer:
            raise RuntimeError(answer.decode(errors="replace"))
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._transport:
            self._transport.close()


async def connected(port: int) -> Talker:
    """Return a talker with a connection."""
    loop = asyncio.get_running_loop()
    _, talker = await loop.create_connection(Talker, "127.0.0.1", port)
    return talker


async def talk(port: int, until: float, ended: list[tuple[float, float]]) -> None:
    talker = await connected(port)
    asked = b""
    for number in count():
        started = time.perf_counter()
        if started >= until:
            break
        if number % TURNS == 0:
            asked = request(str(uuid4()), "What did we agree on yesterday?")
        await talker.ask(asked)
        now = time.perf_counter()
        ended.append((now, now - started))
    talker.close()


async def race(port: int, connections: int, seconds: float) -> dict[str, float]:
    """Let all talk; returns turns a second and a turn's median and p99 in milliseconds, warmed up."""
    ended: list[tuple[float, float]] = []
    begun = time.perf_counter() + WARM_UP_S
    until = begun + seconds
    await asyncio.gather(*(talk(port, until, ended) for _ in range(connections)))
    times = sorted(took for at, took in ended if begun <= at < until)
    return {
        "rate": len(times) / seconds,
        "median_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(race(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
