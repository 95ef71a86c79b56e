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
    closed, or the answer to the cancelled statement would be taken for the next one's. The loop watches the
    socket between statements, too: call `release` before the connection is closed or used otherwise.
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

    async def row(self, arguments: Sequence[bytes | None], patience_s: float) -> tuple[Any, ...]:
        """Run the statement, prepared at its first run, and return its row.

        Raises `psycopg.Error`: the connection is broken after it, or the server has refused the statement
        and rolled it back; `TimeoutError` where it says nothing for `patience_s` seconds.
        """
        if not self._is_prepared:
            self._pgconn.send_prepare(_NAME, self._statement, self._types)
            await self._result(patience_s)
            self._is_prepared = True
        self._pgconn.send_query_prepared(_NAME, arguments, self._formats, pq.Format.BINARY)
        self._conversion.set_pgresult(await self._result(patience_s))
        row: tuple[Any, ...] | None = self._conversion.load_row(0, tuple)
        return row or ()

    def release(self) -> None:
        """Let the loop forget the socket, until the next statement."""
        watched, self._watched = self._watched, None
        if watched is not None:
            loop, socket = watched
            loop.remove_reader(socket)
            loop.remove_writer(socket)

    async def _result(self, patience_s: float) -> PGresult:
        loop, socket = self._watch()
        self._last, self._answer = None, loop.create_future()
        giving_up = loop.call_later(patience_s, self._fail, TimeoutError())
        try:
            if self._pgconn.flush():  # more than the socket takes at once
                loop.add_writer(socket, self._send, loop, socket)
            result = await self._answer
        except BaseException:
            self.release()
            raise
        finally:
            giving_up.cancel()
        if result is None or result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise psycopg.OperationalError if result is None else error_from_result(result, self._encoding)
        return result

    def _watch(self) -> tuple[asyncio.AbstractEventLoop, int]:
        """Watch the socket, once for many statements: to begin and to end takes ten system calls."""
        if self._watched is None:
            self._watched = loop, socket = asyncio.get_running_loop(), self._pgconn.socket
            loop.add_reader(socket, self._receive)
        return self._watched

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

    def _fail(self, error: Exception) -> None:
        # At once: libpq may have closed the socket, and the next one that anybody opens has its number.
        self.release()
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
