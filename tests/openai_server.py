"""A local server that speaks the OpenAI chat completions streaming format, good and bad, by a script.

    async with OpenAIServer(lambda request: [Text("Hello"), *call(0, "id", "tool", "{}")]) as server:
        ... server.base_url ... server.requests

A script gets the parsed request and returns the pieces of the answer, all at once or as an async iterator.
The end (finish reason, usage where it was asked for, `[DONE]`) is added unless a piece says otherwise.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from tests.openai_pieces import (
    CallPiece,
    Cut,
    EndEarly,
    Finish,
    Pause,
    Piece,
    Refusal,
    Status,
    StreamError,
    Text,
    Usage,
)


@dataclass(frozen=True)
class ChatRequest:
    """One request as the server got it; `headers` have small letters."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body["messages"])

    @property
    def tools(self) -> list[dict[str, Any]]:
        return [tool["function"] for tool in self.body.get("tools", [])]

    @property
    def model(self) -> str:
        return str(self.body["model"])


Script = Callable[[ChatRequest], Iterable[Piece] | AsyncIterator[Piece]]


@dataclass
class _Answer:
    """What was said so far, for the end to fit."""

    request: ChatRequest
    calls: bool = False
    finish: str | None = ""
    usage: tuple[int, int] | None = (7, 5)

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return self.frame([{"index": 0, "delta": delta, "finish_reason": finish}])

    def frame(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        base = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.request.model,
        }
        return {**base, "choices": choices, **more}

    def end(self) -> list[dict[str, Any]]:
        frames = []
        reason = ("tool_calls" if self.calls else "stop") if self.finish == "" else self.finish
        if reason:
            frames.append(self.chunk({}, reason))
        if self.usage and (self.request.body.get("stream_options") or {}).get("include_usage"):
            prompt, completion = self.usage
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
            frames.append(self.frame([], usage=usage))
        return frames


class _GoneError(Exception):
    """The client went away, or is to believe that the server did."""


@dataclass
class OpenAIServer:
    """The server; `requests` are those it got, `disconnects` counts the clients that left in the middle."""

    script: Script
    requests: list[ChatRequest] = field(default_factory=list)
    disconnects: int = 0
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(_Connection(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            while request := await connection.request():
                self.requests.append(request)
                await self._answer(connection, request)
        except (_GoneError, ConnectionError):
            if connection.gone:
                self.disconnects += 1
                self.disconnected.set()
        finally:
            await connection.close()

    async def _answer(self, connection: "_Connection", request: ChatRequest) -> None:
        answer = _Answer(request)
        async for piece in _each(self.script(request)):
            if isinstance(piece, Status):
                await connection.error(piece)
                return
            await connection.open()
            if isinstance(piece, EndEarly):
                await connection.end()
                return
            await self._say(connection, answer, piece)
        await connection.open()
        for frame in answer.end():
            await connection.frame(frame)
        await connection.data("[DONE]")
        await connection.end()

    async def _say(self, connection: "_Connection", answer: _Answer, piece: Piece) -> None:
        match piece:
            case Text(text):
                await connection.frame(answer.chunk({"role": "assistant", "content": text}))
            case Refusal(text):
                await connection.frame(answer.chunk({"role": "assistant", "refusal": text}))
            case CallPiece():
                answer.calls = True
                await connection.frame(answer.chunk({"tool_calls": [_call_delta(piece)]}))
            case Pause(seconds):
                await connection.pause(seconds)
            case StreamError(message):
                await connection.frame({"error": {"message": message, "type": "server_error", "code": None}})
            case Usage(tokens):
                answer.usage = tokens
            case Finish(reason):
                answer.finish = reason
            case Cut():
                connection.cut()


async def _each(pieces: Iterable[Piece] | AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    if isinstance(pieces, AsyncIterator):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece


def _call_delta(piece: CallPiece) -> dict[str, Any]:
    delta: dict[str, Any] = {"index": piece.index, "function": {"arguments": piece.arguments}}
    if piece.id is not None:
        delta |= {"id": piece.id, "type": "function"}
    if piece.name is not None:
        delta["function"]["name"] = piece.name
    return delta


class _Connection:
    """One connection of a client, kept open between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_open = False

    @property
    def gone(self) -> bool:
        return self._reader.at_eof() or self._reader.exception() is not None

    async def request(self) -> ChatRequest | None:
        with suppress(asyncio.IncompleteReadError):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = [line.partition(":") for line in head.split("\r\n")[1:] if line]
            headers = {name.lower(): value.strip() for name, _, value in lines}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            self._is_open = False
            return ChatRequest(headers, json.loads(body))
        return None

    async def open(self) -> None:
        if not self._is_open:
            self._is_open = True
            head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            await self._write(head.encode())

    async def error(self, status: Status) -> None:
        body = json.dumps({"error": {"message": status.message, "type": "error", "code": None}}).encode()
        head = f"HTTP/1.1 {status.code} Error\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        await self._write(head.encode() + body)

    async def frame(self, frame: Mapping[str, Any]) -> None:
        await self.data(json.dumps(frame))

    async def data(self, data: str) -> None:
        payload = f"data: {data}\n\n".encode()
        await self._write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")

    async def end(self) -> None:
        await self._write(b"0\r\n\r\n")

    async def pause(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            if self.gone:
                raise _GoneError
            await asyncio.sleep(0.02)

    def cut(self) -> None:
        self._writer.transport.abort()
        raise _GoneError

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _write(self, data: bytes) -> None:
        if self.gone:
            raise _GoneError
        self._writer.write(data)
        await self._writer.drain()
