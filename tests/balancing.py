"""A balancer before several servers, connection by connection: passes over one that refuses or is drained."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.accepting import accepting


@dataclass
class Balancer:
    """Gives each connection to the next server of the round that takes it.

    Nothing is known of HTTP here: a connection stays where it is until one of its ends closes it.
    """

    ports: Sequence[int]
    drained: set[int] = field(default_factory=set)
    passed: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._round = itertools.cycle(range(len(self.ports)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            try:
                if found := await self._connected():
                    await _joined((reader, writer), found)
            finally:
                writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.ports:
            port = self.ports[next(self._round)]
            if port in self.drained:
                continue
            with suppress(OSError):
                found = await asyncio.open_connection("127.0.0.1", port)
                self.passed[port] = self.passed.get(port, 0) + 1
                return found
        self.refused += 1
        return None


End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _joined(one: End, other: End) -> None:
    """Pass on what each end says until both have closed, or one has broken off."""
    copying = [
        asyncio.ensure_future(_copy(one[0], other[1])),
        asyncio.ensure_future(_copy(other[0], one[1])),
    ]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


@asynccontextmanager
async def balancer(ports: Sequence[int]) -> AsyncIterator[Balancer]:
    """Put a balancer before the servers on these ports of loopback for the block."""
    balancing = Balancer(ports)
    async with accepting(balancing.serve) as balancing.url:
        yield balancing
