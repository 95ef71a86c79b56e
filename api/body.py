"""Reading a request's body without taking more than is allowed."""

from fastapi import Request
from starlette.requests import ClientDisconnect

from application.errors import InvalidJsonError, MessageTooLargeError

# JSON may spell one byte of text with six (a control character as \u0001), and there is a frame around it.
WORST_ESCAPE = 6
FRAME_BYTES = 64 * 1024


async def read_body(request: Request, message_bytes: int) -> bytes:
    """Return the body.

    Raises `MessageTooLargeError` as soon as it is too long for any valid message, and
    `InvalidJsonError` where the client goes away in the middle of it.
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
    return b"".join(pieces)
