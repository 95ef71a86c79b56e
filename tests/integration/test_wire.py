"""The driver's shortest way: a socket that libpq has closed is nobody's business any more."""

import asyncio

import psycopg
import pytest

from infrastructure.postgres.wire import Wire
from tests.integration.saves import query

INT4 = 23


class Noting(Wire):
    """Notes whether its socket was still watched when it had said that the connection is gone."""

    was_watched: bool | None = None

    def _fail(self, error: psycopg.Error) -> None:
        assert self._watched
        loop, socket = self._watched
        super()._fail(error)
        self.was_watched = loop.remove_reader(socket)


async def test_the_number_of_a_broken_connections_socket_is_free_before_anybody_is_told(
    database_url: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        wire = Noting(connection, "SELECT pg_sleep($1)", [INT4])
        assert await wire.row([bytes(4)])
        breaking = asyncio.create_task(wire.row([(60).to_bytes(4, "big")]))
        await asyncio.sleep(0)
        process = connection.info.backend_pid
        await asyncio.to_thread(query, database_url, f"SELECT pg_terminate_backend({process})")
        with pytest.raises(psycopg.OperationalError):
            await breaking
    assert wire.was_watched is False
