"""A proxy between a client and a server that cuts every stream after so many frames."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.accepting import accepting


@dataclass
class CuttingProxy:
    """Passes requests on, one a connection; a stream of events is cut behind its `frames`-th frame."""

    port: int
    frames: int
    retry_ms: int | None = None
    cuts: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                await self._pass(reader, writer)
            finally:
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer, upstream = await asyncio.open_connection("127.0.0.1", self.port)
        request = asyncio.create_task(self._pass_request(reader, upstream))
        try:
            await self._pass_answer(answer, writer)
        finally:
            request.cancel()
            upstream.close()
            await asyncio.gather(request, return_exceptions=True)

    async def _pass_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        writer.write(b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""]))
        while piece := await reader.read(65536):
            writer.write(piece)

    async def _pass_answer(self, answer: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await answer.readuntil(b"\r\n\r\n")
        is_chunked = b"transfer-encoding: chunked" in head.lower()
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"transfer-encoding")]
        writer.write(b"\r\n".join(kept))
        if self.retry_ms is not None and b"text/event-stream" in head:
            writer.write(f"retry: {self.retry_ms}\n\n".encode())
        count = self.frames if b"text/event-stream" in head else None
        async for piece in _pieces(answer, is_chunked):
            if count is None:
                writer.write(piece)
            else:
                taken, count = _first_frames(piece, count)
                writer.write(taken)
            await writer.drain()
            if count == 0:
                self.cuts += 1
                return


async def _pieces(answer: asyncio.StreamReader, is_chunked: bool) -> AsyncIterator[bytes]:
    while is_chunked:
        size = int(await answer.readline(), 16)
        piece = await answer.readexactly(size + 2)
        if not size:
            return
        yield piece[:-2]
    while piece := await answer.read(65536):
        yield piece


def _first_frames(piece: bytes, count: int) -> tuple[bytes, int]:
    """Return the first frames of a piece, which begins and ends with whole ones, and how many may follow."""
    taken = b""
    for frame in piece.split(b"\n\n")[:-1]:
        taken += frame + b"\n\n"
        count -= not frame.startswith(b":")
        if not count:
            break
    return taken, count


@asynccontextmanager
async def cutting_proxy(url: str, frames: int, retry_ms: int | None = None) -> AsyncIterator[CuttingProxy]:
    """Put a proxy before the server at `url` for the block."""
    proxy = CuttingProxy(urlsplit(url).port or 80, frames, retry_ms)
    async with accepting(proxy.serve) as proxy.url:
        yield proxy
