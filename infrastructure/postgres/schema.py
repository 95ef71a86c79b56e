"""The tables and how they come to be: numbered files of SQL, each applied once, in order."""

from importlib.resources import files

import psycopg

from domain.errors import MinutebookError

OLDEST_SERVER = 15
# One migration at a time in a database; the number is ours alone within it.
_MIGRATION_LOCK = 7812943190436629


class SchemaError(MinutebookError):
    """The database does not fit: {reason}."""

    code = "schema_mismatch"


def migrate(conninfo: str) -> None:
    """Bring the database up to date; any number of processes may do so at once.

    Where nothing is missing nothing is created, so a member of minutebook_app may call it, too.

    Raises `SchemaError` for a server that is too old, an encoding other than UTF-8 and a schema newer than
    this code, `psycopg.OperationalError` when the server cannot be reached.
    """
    with _connect(conninfo) as connection:
        _check_server(connection)
        if _has_migrations(connection) and _applied(connection) == _migrations().keys():
            return
        connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied = _applied(connection)
        _refuse_newer(applied)
        for version, (name, script) in _migrations().items():
            if version not in applied:
                _apply(connection, version, name, script)


def check(conninfo: str) -> None:
    """Raise `SchemaError` unless this code can work with the database as it is."""
    with _connect(conninfo) as connection:
        _check_server(connection)
        if not _has_migrations(connection):
            raise SchemaError(reason="it has no tables of Minutebook yet; migrate it first")
        applied = _applied(connection)
        _refuse_newer(applied)
        if missing := _migrations().keys() - applied:
            reason = f"{len(missing)} migrations are missing; migrate it first"
            raise SchemaError(reason=reason)


def _connect(conninfo: str) -> psycopg.Connection:
    return psycopg.connect(
        conninfo,
        autocommit=True,
        application_name="minutebook migrate",
        connect_timeout=10,
        client_encoding="utf8",
    )


def _check_server(connection: psycopg.Connection) -> None:
    major = connection.info.server_version // 10_000
    if major < OLDEST_SERVER:
        raise SchemaError(reason=f"PostgreSQL {OLDEST_SERVER} or newer is needed and the server is {major}")
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        reason = f"its encoding is {encoding}; make one with ENCODING 'UTF8' TEMPLATE template0"
        raise SchemaError(reason=reason)


def _has_migrations(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT to_regclass('migrations') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _applied(connection: psycopg.Connection) -> set[int]:
    return {version for (version,) in connection.execute("SELECT version FROM migrations")}


def _refuse_newer(applied: set[int]) -> None:
    newest, known = max(applied, default=0), max(_migrations())
    if newest > known:
        reason = f"its schema is version {newest} and this program knows {known}; run the newer program"
        raise SchemaError(reason=reason)


def _apply(connection: psycopg.Connection, version: int, name: str, script: str) -> None:
    with connection.transaction():
        connection.execute(script)
        connection.execute("INSERT INTO migrations (version, name) VALUES (%s, %s)", [version, name])


def _migrations() -> dict[int, tuple[str, str]]:
    folder = files(__package__) / "migrations"
    scripts = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".sql")}
    return {int(name.split("_")[0]): (name, scripts[name].read_text("utf-8")) for name in sorted(scripts)}
