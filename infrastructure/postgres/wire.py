"""One prepared statement on a connection of its own, with as few turns of the event loop as it takes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult

_NAME = b"minutebook_wire"


class Wire:
    """Sends a statement's binary arguments and returns the one row of its answer.

    psycopg's cursors do this for any statement, any arguments and many rows, and take longer over it than
    the server takes over a small append. libpq underneath, its errors and its conversions are the same.
    One statement at a time: the caller sees to that. After a cancellation the connection must be
    closed, or the answer to the cancelled statement would be taken for the next one's.
    """

    def __init__(self, connection: psycopg.AsyncConnection, statement: str, types: Sequence[int]) -> None:
        self._encoding = connection.info.encoding
        self._pgconn = connection.pgconn
        self._statement = statement.encode()
        self._types = types
        self._formats = [pq.Format.BINARY] * len(types)
        self._conversion = Transformer(connection)
        self._is_prepared = False
        self._watched: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._last: PGresult | None = None
        self._answer: asyncio.Future[PGresult | None] | None = None

    async def row(self, arguments: Sequence[bytes]) -> tuple[Any, ...]:
        """Run the statement, prepared at its first run, and return its row.

        Raises `psycopg.Error`: the connection is broken after it, or the server has refused the statement
        and rolled it back.
        """
        if not self._is_prepared:
            self._pgconn.send_prepare(_NAME, self._statement, self._types)
            await self._result()
            self._is_prepared = True
        self._pgconn.send_query_prepared(_NAME, arguments, self._formats, pq.Format.BINARY)
        self._conversion.set_pgresult(await self._result())
        row: tuple[Any, ...] | None = self._conversion.load_row(0, tuple)
        return row or ()

    async def _result(self) -> PGresult:
        loop, socket = asyncio.get_running_loop(), self._pgconn.socket
        self._last, self._answer = None, loop.create_future()
        loop.add_reader(socket, self._receive)
        self._watched = loop, socket
        try:
            if self._pgconn.flush():  # more than the socket takes at once
                loop.add_writer(socket, self._send, loop, socket)
            result = await self._answer
        finally:
            self._unwatch()
        if result is None or result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise psycopg.OperationalError if result is None else error_from_result(result, self._encoding)
        return result

    def _send(self, loop: asyncio.AbstractEventLoop, socket: int) -> None:
        try:
            if not self._pgconn.flush():
                loop.remove_writer(socket)
        except psycopg.Error as error:
            self._fail(error)

    def _receive(self) -> None:
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._answer_with(self._last)
                    return
                self._last = result
        except psycopg.Error as error:
            self._fail(error)

    def _answer_with(self, result: PGresult | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(result)

    def _fail(self, error: psycopg.Error) -> None:
        # At once: libpq has closed the socket, and the next one that anybody opens has its number.
        self._unwatch()
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            loop, socket = watched
            loop.remove_reader(socket)
            loop.remove_writer(socket)
