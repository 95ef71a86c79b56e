"""Reading a request's body without taking more than is allowed, and without keeping others waiting."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from application.errors import InvalidJsonError, MessageTooLargeError

# JSON may spell one byte of text with six (a control character as \u0001), and there is a frame around it.
WORST_ESCAPE = 6
FRAME_BYTES = 64 * 1024
# Of a message two fields may be large: a decision's arguments, and its feedback.
LARGE_FIELDS: Final = 2
# What is longer is made sense of beside the event loop.
AT_ONCE: Final = 64 * 1024

T = TypeVar("T")


async def parsed_body(request: Request, read: Callable[[bytes], T]) -> T:
    """Return what `read` makes of the body; raises what `read_body` and `read` raise."""
    body = await read_body(request, request.app.state.limits.message_bytes)
    return read(body) if len(body) <= AT_ONCE else await asyncio.to_thread(read, body)


async def read_body(request: Request, message_bytes: int) -> bytes:
    """Return the body.

    Raises `MessageTooLargeError` as soon as it is too long for any valid message, or where it has more commas
    than one may have, and `InvalidJsonError` where the client goes away in the middle of it.
    """
    most = message_bytes * WORST_ESCAPE + FRAME_BYTES
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                raise MessageTooLargeError(limit=message_bytes)
            pieces.append(piece)
    except ClientDisconnect:
        raise InvalidJsonError(reason="it ends early") from None
    body = b"".join(pieces)
    if body.count(b",") > LARGE_FIELDS * message_bytes:  # however JSON is spelt, its commas stay
        raise MessageTooLargeError(limit=message_bytes)
    return body
