"""Frames as Server-Sent Events: LF line ends, encoded once for all who watch."""

import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from sse_starlette import EventSourceResponse

from application.frames import Frame
from application.ports import Metrics

HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
PING_S: Final = 15

# JSON may hold these as they are, but many a client takes them for the end of a line.
_LINE_ENDS: Final = (("\u0085", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))

encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def one_line(body: Any) -> str:
    """Return JSON that every client takes for one line."""
    text = encode_json(body)
    for sign, escaped in _LINE_ENDS:
        text = text.replace(sign, escaped)
    return text


def encoded(frame: Frame) -> bytes:
    """Return the frame's bytes on the wire."""
    if frame.encoded is None:
        head = f"id: {frame.attempt}.{frame.seq}\nevent: {frame.type}\n"
        frame.encoded = f"{head}data: {one_line(frame.body)}\n\n".encode()
    return frame.encoded


def joined(frames: Iterable[Frame]) -> bytes:
    """Return several frames as one piece, so that they leave in one write."""
    return b"".join(map(encoded, frames))


async def batches_encoded(frames: AsyncIterator[Sequence[Frame]]) -> AsyncIterator[bytes]:
    """Encode frames as they come."""
    async with aclosing(frames) as batches:  # type: ignore[type-var]  # a generator
        async for batch in batches:
            yield joined(batch)


async def _counted(pieces: AsyncIterator[bytes], metrics: Metrics) -> AsyncIterator[bytes]:
    """Count the stream from its first piece: one whose client left before is never begun, nor closed."""
    opened = time.monotonic()
    metrics.stream_opened()
    try:
        async with aclosing(pieces) as open_pieces:  # type: ignore[type-var]  # a generator
            async for piece in open_pieces:
                yield piece
    finally:
        metrics.stream_closed(time.monotonic() - opened)


def event_stream(pieces: AsyncIterator[bytes], metrics: Metrics) -> EventSourceResponse:
    """Answer with these pieces of a stream as they come, counted for as long as it is open."""
    return EventSourceResponse(_counted(pieces, metrics), headers=HEADERS, sep="\n", ping=PING_S)
