"""A server as users run it, with a model that says SIZE bytes at once.

Started as `python -m tests.benchmarks.house URL SIZE [projections]`; with the last word it keeps the read
models up to date beside the turns, as `serve` does unless MINUTEBOOK_PROJECTIONS is false. Prints its port
when it listens. The log lines of its turns go to standard error, as always.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from typing import Any

import uvloop

from api import log_output
from api.bootstrap.house import open_house
from api.server import Server, listen
from api.settings import Settings
from application.language_model import Finished, ModelChunk, ModelRequest, TextDelta
from tests.benchmarks.texts import texts
from tests.serving import MASTER_KEY, SIGNING_KEY

DELTAS = 5


class InstantModel:
    """Says something of `size` bytes at once, whatever it is asked, in five pieces."""

    def __init__(self, size: int) -> None:
        self._texts = texts(size, seed=2)
        self._piece = -(-size // DELTAS)

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Stream the answer."""
        content = next(self._texts)
        for start in range(0, len(content), self._piece):
            yield TextDelta(content[start : start + self._piece])
        yield Finished("stop", 50, 150)


async def serve(settings: Settings, sock: socket.socket, url: str, size: int) -> None:
    async with open_house(settings, url, InstantModel(size)) as house:
        await Server(house, settings.grace_s).serve(sockets=[sock])


def main(url: str, size: str, hosting: str = "") -> None:
    given: dict[str, Any] = {
        "master_key": MASTER_KEY,
        "signing_key": SIGNING_KEY,
        "projections": hosting == "projections",
    }
    settings = Settings(_env_file=None, database_url=url, port=0, **given)
    log_output.configure(settings.log_level)
    sock = listen(settings.host, settings.port)
    print(sock.getsockname()[1], flush=True)
    with sock, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, sock, url, int(size)))


if __name__ == "__main__":
    main(*sys.argv[1:])
