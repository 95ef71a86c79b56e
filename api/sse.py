"""Frames as Server-Sent Events: LF line ends, encoded once for all who watch."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from api.direct import direct_send
from application.frames import Frame
from application.ports import Metrics

HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
# How `/openapi.json` describes an address that streams.
STREAMED: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/event-stream": {}}}}
HEARTBEAT: Final = b": still here\n\n"
WATCH_AFTER_S: Final = 0.5
# A client that takes nothing for this long (at most twice as long) is dropped; it comes back with the last id
# it has seen.
SEND_TIMEOUT_S = 15.0
# What is given to the socket at once: a client that does not take it holds no more than this.
PIECE_BYTES: Final = 64 * 1024

# JSON may hold these as they are, but many a client takes them for the end of a line.
_LINE_ENDS: Final = (("\u0085", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_encode_escaped = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def one_line(body: Any) -> bytes:
    """Return JSON that every client takes for one line.

    Halves of surrogate pairs, as logs hold them that are older than the checks, stay escaped.
    """
    text = _encode(body)
    for sign, escaped in _LINE_ENDS:
        text = text.replace(sign, escaped)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _encode_escaped(body).encode()


def encoded(frame: Frame) -> bytes:
    """Return the frame's bytes on the wire."""
    if frame.encoded is None:
        head = f"id: {frame.attempt}.{frame.seq}\nevent: {frame.type}\n"
        frame.encoded = b"%bdata: %b\n\n" % (head.encode(), one_line(frame.body))
    return frame.encoded


def joined(frames: Iterable[Frame]) -> bytes:
    """Return several frames as one piece, so that they leave in one write."""
    return b"".join(map(encoded, frames))


async def batches_encoded(frames: AsyncIterator[Sequence[Frame]]) -> AsyncIterator[bytes]:
    """Encode frames as they come; an empty batch is a heartbeat."""
    async with aclosing(frames) as batches:  # type: ignore[type-var]  # a generator
        async for batch in batches:
            yield joined(batch) or HEARTBEAT


def parts(piece: bytes) -> Iterator[bytes]:
    """Return a piece in parts of no more than `PIECE_BYTES`."""
    if len(piece) <= PIECE_BYTES:
        yield piece
        return
    for start in range(0, len(piece), PIECE_BYTES):
        yield piece[start : start + PIECE_BYTES]


class StreamResponse(EventSourceResponse):
    """A response for streams that bring their own heartbeats.

    The library's response watches each stream with four tasks, which costs a short turn more than
    everything it says, and a feed most of its memory. This one sends from the request's own task, and only
    a stream that is still open after a while is watched for a client that has gone. One that takes nothing
    for `send_timeout_s` seconds has gone, too.
    """

    def __init__(self, pieces: AsyncIterator[bytes], send_timeout_s: float | None = None) -> None:
        super().__init__(pieces, headers=HEADERS, sep="\n", ping=0)
        self._pieces = pieces
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or the client has gone."""
        departure = Departure(receive, self._send_timeout_s)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        direct = direct_send(scope, send)
        async with departure, aclosing(self._pieces) as pieces:  # type: ignore[type-var]  # a generator
            async for piece in pieces:
                for part in parts(piece):
                    departure.sends += 1  # odd while one is being sent
                    await direct({"type": "http.response.body", "body": part, "more_body": True})
                    departure.sends += 1
                del piece, part  # a stream that waits keeps nothing of what it has said
        if not departure.is_noticed:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class TurnResponse(StreamResponse):
    """The response of a turn's stream, which is counted and ends by itself; the turn runs on without it."""

    def __init__(self, pieces: AsyncIterator[bytes], metrics: Metrics) -> None:
        super().__init__(pieces, SEND_TIMEOUT_S)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or the client has gone."""
        opened = time.monotonic()
        self._metrics.stream_opened()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._metrics.stream_closed(time.monotonic() - opened)


class Departure:
    """Ends the block when the client goes; it begins to look after `WATCH_AFTER_S` seconds.

    With a limit, a client that has not taken the same piece at two looks in a row, that many seconds apart,
    has gone, too.
    """

    def __init__(self, receive: Receive, send_timeout_s: float | None = None) -> None:
        self.is_noticed = False
        self.sends = 0
        self._receive = receive
        self._send_timeout_s = send_timeout_s
        self._watching: asyncio.Task[None] | None = None
        self._until_gone = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)
        await self._until_gone.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if self._watching:
            self._watching.cancel()
        try:
            await self._until_gone.__aexit__(kind, raised, trace)
        except TimeoutError:
            self.is_noticed = True
        return self.is_noticed

    def _begin(self) -> None:
        self._watching = asyncio.create_task(self._watch())
        if self._send_timeout_s:
            self._look(self._send_timeout_s, 0)

    def _look(self, every_s: float, sends_before: int) -> None:
        if self.sends % 2 and self.sends == sends_before:
            self._until_gone.reschedule(0)
        else:
            self._timer = asyncio.get_running_loop().call_later(every_s, self._look, every_s, self.sends)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._until_gone.reschedule(0)


def event_stream(pieces: AsyncIterator[bytes], metrics: Metrics) -> EventSourceResponse:
    """Answer with these pieces of a turn's stream as they come."""
    return TurnResponse(pieces, metrics)
