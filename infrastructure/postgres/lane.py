"""One connection that appends: a batch at a time, each as one statement whose outcome is found out."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import repeat
from typing import Final

import psycopg

from application.errors import ConflictError, StoreUnavailableError, TurnLostError
from domain.errors import MinutebookError
from infrastructure.postgres.batch import APPEND_NUMBERED, TYPES, Save, Status, Stored, parameters
from infrastructure.postgres.connections import appending, arguments
from infrastructure.postgres.pace import Took
from infrastructure.postgres.settling import settle
from infrastructure.postgres.wire import Wire

_log = logging.getLogger(__name__)
_REFUSALS: Final[dict[int, type[MinutebookError]]] = {
    Status.CONFLICT: ConflictError,
    Status.FENCED: TurnLostError,
}
# The server found fault with what it was given: its SQLSTATE begins with one of these.
_DATA_ERRORS: Final = ("21", "22", "23", "54")
# Two transactions waited for each other, and the server chose ours to give way.
_COLLISIONS: Final = ("40",)

Outcome = Stored | MinutebookError


class UnreachableError(Exception):
    """The database was not there for as long as we look for it: nothing was sent."""


class _BrokenError(Exception):
    """The connection broke while the server had the batch: nobody knows what became of it."""


class Lane:
    """Writes one batch at a time on a connection of its own, which it opens anew where it is gone.

    Times are seconds: a broken connection is settled or given up within `settle_s`.
    """

    def __init__(self, conninfo: str, *, settle_s: float, statement_timeout_s: float) -> None:
        self._conninfo = conninfo
        self._settle_s = settle_s
        self._statement_timeout_s = statement_timeout_s
        self._connection: psycopg.AsyncConnection | None = None
        self.took: Took | None = None  # the newest batch that was answered, until the next one

    async def write(self, saves: Sequence[Save]) -> list[Outcome]:
        """Append the saves in one transaction and say what became of each, in their order.

        Where one of them spoils it for all, each is appended alone. Raises `UnreachableError`.
        """
        self.took = None
        try:
            return await self._append(saves)
        except psycopg.Error as error:
            if len(saves) > 1 and _is_of_class(error, _DATA_ERRORS + _COLLISIONS):
                # One of them is to blame, and its neighbours are not.
                return [outcome for save in saves for outcome in await self.write([save])]
            return [await self._refused(error)] * len(saves)

    async def close(self) -> None:
        """Close the connection; the next batch gets a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire.release()
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()

    async def _append(self, saves: Sequence[Save]) -> list[Outcome]:
        """Append, and after a broken connection ask what became of it before going on."""
        deadline = asyncio.get_running_loop().time() + self._settle_s
        connection = await self._reconnected(deadline)
        if connection is None:
            raise UnreachableError
        try:
            return await self._execute(connection, saves)
        except _BrokenError:
            return await self._settled(saves, deadline)

    async def _settled(self, saves: Sequence[Save], deadline: float) -> list[Outcome]:
        """Find out what is stored and repeat the rest, until it is certain or time has run out.

        A repetition is refused where the lost statement came through after all; so a refusal only
        counts once the save is known not to be in the log.
        """
        outcomes: list[Outcome | None] = [None] * len(saves)
        while (connection := await self._reconnected(deadline)) is not None:
            try:
                self._wire.release()
                found = await settle(connection, saves)
                outcomes = [stored or outcome for stored, outcome in zip(found, outcomes, strict=True)]
                if None not in outcomes:
                    break
                for index, save in enumerate(saves):
                    outcomes[index] = outcomes[index] or await self._repeat(connection, save)
            except (_BrokenError, psycopg.Error, OSError):
                await self.close()
                await asyncio.sleep(0.1)
        return [outcome or StoreUnavailableError() for outcome in outcomes]

    async def _repeat(self, connection: psycopg.AsyncConnection, save: Save) -> Outcome:
        try:
            return (await self._execute(connection, [save]))[0]
        except psycopg.Error as error:
            if _is_of_class(error, _DATA_ERRORS):
                return await self._refused(error)
            raise

    async def _refused(self, error: psycopg.Error) -> MinutebookError:
        """Return what to answer where the server said no: it has rolled the batch back."""
        _log.warning("an append was refused by the database: %s %s", type(error).__name__, error.sqlstate)
        if isinstance(error, psycopg.errors.UniqueViolation):
            return ConflictError()
        if _is_of_class(error, _DATA_ERRORS):
            return MinutebookError()
        await self.close()  # the next batch finds the server that can write
        return StoreUnavailableError()

    async def _execute(self, connection: psycopg.AsyncConnection, saves: Sequence[Save]) -> list[Outcome]:
        """Run the one statement; an error that leaves the connection whole is a certain rollback."""
        try:
            arrays = [array.encoded if array else None for array in parameters(saves)]
            began = time.perf_counter()
            *row, written_at = await self._wire.row(arrays, self._statement_timeout_s + 5)
        except OSError as error:  # a timeout is one, too
            await self.close()
            raise _BrokenError from error
        except psycopg.Error as error:
            if not (connection.broken or connection.closed):
                raise
            await self.close()
            raise _BrokenError from error
        self.took = Took(len(saves), row[-1], written_at, time.perf_counter() - began)
        return [_outcome(save, *said) for save, said in zip(saves, _by_save(*row), strict=True)]

    async def _reconnected(self, deadline: float) -> psycopg.AsyncConnection | None:
        """Return the connection, opened anew where it is gone; None when `deadline` has passed."""
        pause = 0.02
        while self._connection is None or self._connection.closed:
            try:
                self._connection = await self._connect()
            except (psycopg.Error, OSError):
                if asyncio.get_running_loop().time() + pause > deadline:
                    return None
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
        return self._connection

    async def _connect(self) -> psycopg.AsyncConnection:
        settings = appending(arguments("minutebook append", self._statement_timeout_s))
        connection = await psycopg.AsyncConnection.connect(self._conninfo, **settings)
        self._wire = Wire(connection, APPEND_NUMBERED, TYPES)
        return connection


def _by_save(
    statuses: Sequence[int], firsts: Sequence[int | None], lasts: Sequence[int | None], stored_at: datetime
) -> Iterator[tuple[int, int | None, int | None, datetime]]:
    return zip(statuses, firsts, lasts, repeat(stored_at))


def _outcome(save: Save, status: int, first: int | None, last: int | None, stored_at: datetime) -> Outcome:
    if status != Status.STORED:
        return _REFUSALS[status]()
    if save.closing is not None and save.closing.first_position is not None:
        return Stored(save.closing.first_position, save.closing.last_position, stored_at)
    return Stored(first, last, stored_at)


def _is_of_class(error: psycopg.Error, classes: tuple[str, ...]) -> bool:
    by_driver = error.sqlstate is None and isinstance(error, psycopg.DataError)
    return by_driver or (error.sqlstate or "").startswith(classes)
