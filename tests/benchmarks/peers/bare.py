"""FastAPI and sse-starlette alone: `python -m tests.benchmarks.peers.bare FILE` streams the frames in FILE.

It reads the request's JSON, yields the prepared bytes of one frame after the other, and stores nothing.
Prints its port when it listens.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse


def bare_app(frames: list[bytes]) -> FastAPI:
    """Return an app with one endpoint that streams these frames."""
    app = FastAPI()

    async def spoken() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame

    @app.post("/v1/messages/stream")
    async def send_message(request: Request) -> EventSourceResponse:
        json.loads(await request.body())
        return EventSourceResponse(spoken(), headers={"Content-Type": "text/event-stream"}, sep="\n")

    return app


def main(file: str) -> None:
    frames = [frame + b"\n\n" for frame in Path(file).read_bytes().split(b"\n\n") if frame]
    config = uvicorn.Config(bare_app(frames), log_config=None, access_log=False, lifespan="off")
    sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(sock.getsockname()[1], flush=True)
    with sock, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[sock]))


if __name__ == "__main__":
    main(*sys.argv[1:])
