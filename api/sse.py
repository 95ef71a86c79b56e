"""Frames as Server-Sent Events: LF line ends, encoded once for all who watch."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from sse_starlette import EventSourceResponse

from application.frames import Frame

HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
PING_S: Final = 15

encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def encoded(frame: Frame) -> bytes:
    """Return the frame's bytes on the wire."""
    if frame.encoded is None:
        head = f"id: {frame.attempt}.{frame.seq}\nevent: {frame.type}\n"
        frame.encoded = f"{head}data: {encode_json(frame.body)}\n\n".encode()
    return frame.encoded


def joined(frames: Iterable[Frame]) -> bytes:
    """Return several frames as one piece, so that they leave in one write."""
    return b"".join(map(encoded, frames))


async def _pieces(
    frames: AsyncIterator[Sequence[Frame]], on_close: Callable[[], None]
) -> AsyncIterator[bytes]:
    try:
        async with aclosing(frames) as batches:  # type: ignore[type-var]  # a generator
            async for batch in batches:
                yield joined(batch)
    finally:
        on_close()


def event_stream(frames: AsyncIterator[Sequence[Frame]], on_close: Callable[[], None]) -> EventSourceResponse:
    """Answer with these frames as they come; `on_close` is called once, however the stream ends."""
    return EventSourceResponse(_pieces(frames, on_close), headers=HEADERS, sep="\n", ping=PING_S)
