"""The driver's shortest way: a socket that libpq has closed is nobody's business any more."""

import asyncio

import psycopg
import pytest

from infrastructure.postgres.wire import Wire
from tests.asking import query

INT4 = 23


class Noting(Wire):
    """Notes whether its socket was still watched when it had said that the connection is gone."""

    was_watched: bool | None = None

    def _fail(self, error: Exception) -> None:
        assert self._watched
        loop, socket = self._watched
        super()._fail(error)
        self.was_watched = loop.remove_reader(socket)


async def test_the_number_of_a_broken_connections_socket_is_free_before_anybody_is_told(
    database_url: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        wire = Noting(connection, "SELECT pg_sleep($1)", [INT4])
        assert await wire.row([bytes(4)], 5)
        breaking = asyncio.create_task(wire.row([(60).to_bytes(4, "big")], 60))
        await asyncio.sleep(0)
        process = connection.info.backend_pid
        await asyncio.to_thread(query, database_url, f"SELECT pg_terminate_backend({process})")
        with pytest.raises(psycopg.OperationalError):
            await breaking
    assert wire.was_watched is False


async def test_a_server_that_says_nothing_is_given_up(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        wire = Wire(connection, "SELECT pg_sleep($1)", [INT4])
        assert await wire.row([bytes(4)], 60)
        with pytest.raises(TimeoutError):
            await wire.row([(60).to_bytes(4, "big")], 0.2)
        await connection.close()


async def test_between_two_statements_the_connection_is_free_for_others(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        wire = Wire(connection, "SELECT $1 + 1", [INT4])
        for number in range(3):
            assert await wire.row([number.to_bytes(4, "big")], 5) == (number + 1,)
            wire.release()
            found = await connection.execute("SELECT 'as usual'")
            assert await found.fetchone() == ("as usual",)


async def test_a_connection_that_breaks_between_two_statements_says_so(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        wire = Wire(connection, "SELECT $1 + 1", [INT4])
        await wire.row([bytes(4)], 5)
        terminate = f"SELECT pg_terminate_backend({connection.info.backend_pid}, 5000)"
        await asyncio.to_thread(query, database_url, terminate)
        with pytest.raises(psycopg.OperationalError):
            await wire.row([bytes(4)], 5)
