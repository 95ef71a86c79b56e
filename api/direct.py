"""The short way to the socket, for streams that say the same to many."""

from typing import Final, Self

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_SEND: Final = "minutebook.send"


class DirectSend:
    """Lets streams send their pieces past the layers around the routes.

    These only watch how an answer begins; a piece that went through each of them would cost as much as its
    way to the socket.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remember the server's own `send`, and go on."""
        scope[_SEND] = send
        await self._app(scope, receive, send)


def direct_send(scope: Scope, send: Send) -> Send:
    """Return the server's own `send` for the pieces of an answer that has begun."""
    direct: Send = scope.get(_SEND, send)
    return direct


class Direct:
    """Writes to the socket of an answer that has begun, without waiting.

    It knows uvicorn's inside; under another server there is none, and all goes the ordinary way.
    """

    __slots__ = ("_answer",)

    def __init__(self, answer: RequestResponseCycle) -> None:
        self._answer = answer

    @classmethod
    def of(cls, scope: Scope) -> Self | None:
        """Return the way to the socket of this request, where there is one."""
        answer = getattr(scope.get(_SEND), "__self__", None)
        return cls(answer) if isinstance(answer, RequestResponseCycle) else None

    def write(self, chunk: bytes) -> bool:
        """Write a chunk; False where the client has to take what is waiting for it first, or has gone."""
        answer = self._answer
        if answer.flow.write_paused or answer.disconnected or not answer.chunked_encoding:
            return False
        answer.transport.write(chunk)
        return True


def as_chunk(piece: bytes) -> bytes:
    """Return a piece as HTTP/1.1 sends it in an answer of unknown length."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
