"""The database: the one that is set, else the embedded one; migrated before anybody uses it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psycopg

from api.settings import Settings, SettingsError
from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from infrastructure.postgres.watching import watched
from infrastructure.projections.operating import make_tables
from infrastructure.projections.registry import READ_MODELS

_ON_ITS_WAY = (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown, psycopg.errors.CannotConnectNow)


@contextmanager
def database(settings: Settings, *, is_watched: bool = False) -> Iterator[str]:
    """Give the database's address, starting the embedded one where none is set; watched, it is kept running.

    Raises `SettingsError` where it cannot be reached, is too old, or its schema does not fit.
    """
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        _migrate(url, "The database of MINUTEBOOK_DATABASE_URL")
        yield url
        return
    try:
        with EmbeddedPostgres(settings.data) as embedded:
            url = embedded.start()
            _migrate(url, f"The embedded PostgreSQL in {settings.data}")
            with watched(embedded) if is_watched else nullcontext():
                yield url
    except EmbeddedPostgresError as error:
        raise SettingsError(str(error)) from None


def _migrate(url: str, named: str) -> None:
    try:
        schema.migrate(url)
        make_tables(url, READ_MODELS)
    except schema.SchemaError as error:
        raise SettingsError(str(error)) from None
    except psycopg.Error as error:
        raise SettingsError(f"{named} cannot be used: {_trouble(error)}.") from None


def _trouble(error: psycopg.Error) -> str:
    """Say the kind of trouble; the driver's own text names hosts and users, and quotes addresses."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "its user may not (`minutebook migrate` as the owner, then GRANT minutebook_app to this user)"
    if isinstance(error, _ON_ITS_WAY) or "FATAL:  the database system is" in str(error):
        return "it is starting or stopping; try again in a moment"
    if error.sqlstate or "FATAL" in str(error):
        return "it answers but refuses us (is there such a database, user and password?)"
    if isinstance(error, psycopg.ProgrammingError):
        return "this is no address of a PostgreSQL, as postgresql://user:password@host:5432/database"
    return "nobody answers there"
