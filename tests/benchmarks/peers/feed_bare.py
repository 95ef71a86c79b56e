"""A server that does nothing but write prepared frames, to every socket that is open.

Started as `python -m tests.benchmarks.peers.feed_bare EVENTS`; prints its port. It begins when one of them
says `go JOINED SECONDS`: so many frames in each write, and so many seconds between two of them.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import cast

import uvloop

from tests.benchmarks.feed_readers import DATA

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def prepared(number: int) -> bytes:
    """Return a frame as the feed says it."""
    body = {
        "conversation_id": "c" * 36, "turn_id": "t" * 36, "position": number,
        "recorded_at": "2026-01-01T00:00:00.000000+00:00", "actor": "agent:coder", "data": json.loads(DATA),
    }  # fmt: skip
    data = json.dumps(body, separators=(",", ":"))
    return f"id: {number}\nevent: conversation.assistant_message_sent\ndata: {data}\n\n".encode()


def chunks(frames: list[bytes], joined: int) -> Iterator[bytes]:
    """Return the frames as chunks of HTTP, so many in each."""
    for start in range(0, len(frames), joined):
        some = b"".join(frames[start : start + joined])
        yield b"%x\r\n%b\r\n" % (len(some), some)


class Bare(asyncio.Protocol):
    sockets: set[asyncio.Transport] = set()  # noqa: RUF012 (all of this process)
    frames: list[bytes] = []  # noqa: RUF012

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.sockets.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            self.sockets.add(self.transport)
            self.transport.write(HEAD)
        else:
            _, joined, every_s = data.split()
            self.writing = asyncio.create_task(self.write_all(int(joined), float(every_s)))

    async def write_all(self, joined: int, every_s: float) -> None:
        for chunk in list(chunks(self.frames, joined)):
            for transport in self.sockets:
                transport.write(chunk)
            await asyncio.sleep(every_s)


async def main(events: int) -> None:
    Bare.frames = [prepared(number) for number in range(1, events + 1)]
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
