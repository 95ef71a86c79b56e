"""Saves to append, turns to close, a proxy that cuts connections, and ways to look at the log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import uuid4

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from application.ports import Closing
from infrastructure.postgres.appender import Appender, NewEvent, Save
from tests.asking import query

NODE = "node-1"


def new_stream() -> str:
    return f"conversation-{uuid4()}"


def events(
    stream: str, after: int = 0, count: int = 1, data: bytes = b"{}", turn: str = "turn"
) -> list[NewEvent]:
    conversation = stream.partition("-")[2]
    versions = range(after + 1, after + 1 + count)
    return [
        NewEvent(stream, version, "MessageSaid", conversation, turn, "user:anna", data)
        for version in versions
    ]


def save(stream: str | None = None, after: int = 0, count: int = 1, data: bytes = b"{}") -> Save:
    stream = stream or new_stream()
    return Save(events(stream, after, count, data), {stream: after})


def closing_save(turn: str, attempt: int = 1, node: str = NODE, count: int = 2) -> Save:
    stream = new_stream()
    return Save(events(stream, 0, count, turn=turn), {stream: 0}, Closing(turn, attempt, 7), node)


def running_turn(url: str, attempt: int = 1, node: str = NODE) -> str:
    turn = str(uuid4())
    query(
        url,
        "INSERT INTO turns"
        " (id, conversation, subject, kind, state, attempt, node, lease_until, payload, payload_hash)"
        " VALUES (%s, %s, 'anna', 'user_message', 'running', %s, %s, now() + interval '1 minute',"
        " 'hello', '')",
        turn, str(uuid4()), attempt, node,
    )  # fmt: skip
    return turn


def turn_row(url: str, turn: str) -> dict[str, Any]:
    ((row,),) = query(url, "SELECT to_jsonb(t) FROM turns t WHERE id = %s", turn)
    return dict(row)


def positions(url: str) -> list[int]:
    return [position for (position,) in query(url, "SELECT position FROM log ORDER BY position")]


@asynccontextmanager
async def appending(url: str, **settings: Any) -> AsyncIterator[Appender]:
    appender = Appender(url, **settings)
    await appender.start()
    try:
        yield appender
    finally:
        await appender.stop()


def _let_pass(_direction: str, _piece: bytes) -> str:
    return "pass"


class CuttingProxy:
    """Stands between a client and PostgreSQL, and cuts a connection when `verdict` says so.

    It is asked about every piece of bytes ("in": to the server, "out": from it). "pass": go on;
    "cut": the server still gets a piece that was meant for it, the client does not; "drop": nobody
    gets it; "late": the server gets it once `late` is set, long after the client was cut off.
    """

    def __init__(self, url: str) -> None:
        self._parts = conninfo_to_dict(url)
        self.verdict: Callable[[str, bytes], str] = _let_pass
        self.cuts = 0
        self.late = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def once(self, direction: str, verdict: str) -> None:
        """Give this verdict on the next piece in this direction, and let everything pass after it."""

        def judge(at: str, piece: bytes) -> str:
            if at != direction:
                return "pass"
            self.let_pass()
            return verdict

        self.verdict = judge

    def let_pass(self) -> None:
        """Cut nothing any more."""
        self.verdict = _let_pass

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return make_conninfo(**{**self._parts, "host": "127.0.0.1", "port": port, "sslmode": "disable"})

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await self._connect()
        pumps = [
            asyncio.ensure_future(self._pump("in", reader, back, writer)),
            asyncio.ensure_future(self._pump("out", there, writer, writer)),
        ]
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the end of the test
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            writer.transport.abort()
            back.close()  # what was passed on still reaches the server

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._parts.get("host")), int(self._parts.get("port") or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self,
        direction: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 20):
                verdict = self.verdict(direction, piece)
                if verdict != "pass":
                    self.cuts += 1
                    client.transport.abort()
                if verdict == "late":
                    await self.late.wait()
                if verdict in {"pass", "late"} or (verdict == "cut" and direction == "in"):
                    writer.write(piece)
                    await writer.drain()
                if verdict != "pass":
                    return
