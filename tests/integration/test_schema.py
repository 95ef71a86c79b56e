"""Migrations, and a log that takes nothing back."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infrastructure.postgres import schema
from tests.asking import query
from tests.integration.saves import appending, save

CHANGES = [
    "UPDATE log SET data = 'else'",
    "UPDATE log SET data = 'else' WHERE position = 0",
    "DELETE FROM log",
    "TRUNCATE log",
    "INSERT INTO log SELECT * FROM log ON CONFLICT (position) DO UPDATE SET data = 'else'",
]


@pytest.fixture
async def one_event(database_url: str) -> str:
    async with appending(database_url) as appender:
        await appender.append(save(data=b"said"))
    return database_url


def what_is_said(url: str) -> list[bytes]:
    return [data for (data,) in query(url, "SELECT data FROM log")]


@pytest.mark.parametrize("change", CHANGES)
async def test_the_log_refuses_every_change_even_to_its_owner(one_event: str, change: str) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="the table log is append-only"):
        query(one_event, change)
    assert what_is_said(one_event) == [b"said"]


async def test_a_replication_role_does_not_get_around_it(one_event: str) -> None:
    with psycopg.connect(one_event, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg.errors.RestrictViolation):
            connection.execute("DELETE FROM log")
    assert what_is_said(one_event) == [b"said"]


@pytest.mark.parametrize("change", CHANGES)
async def test_the_services_role_may_not_even_try(one_event: str, change: str) -> None:
    with psycopg.connect(one_event, autocommit=True) as connection:
        connection.execute("SET ROLE minutebook_app")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(change.encode())
    assert what_is_said(one_event) == [b"said"]


async def test_the_services_role_can_append_and_read(database_url: str) -> None:
    as_app = psycopg.conninfo.make_conninfo(database_url, user="app_login")
    query(database_url, "DROP ROLE IF EXISTS app_login")
    query(database_url, "CREATE ROLE app_login LOGIN IN ROLE minutebook_app")
    try:
        async with appending(as_app) as appender:
            await appender.append(save())
        assert query(as_app, "SELECT position FROM log_head") == [(1,)]
    finally:
        query(database_url, "DROP ROLE app_login")


def test_no_two_migrations_have_one_number() -> None:
    folder = Path(schema.__file__).parent / "migrations"
    numbers = [script.name.split("_")[0] for script in folder.glob("*.sql")]
    assert sorted(numbers) == [f"{number:03}" for number in range(1, len(numbers) + 1)]


def test_many_may_migrate_at_once(bare_database_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(schema.migrate, [bare_database_url] * 8))
    schema.check(bare_database_url)
    applied = query(bare_database_url, "SELECT version, name FROM migrations ORDER BY version")
    assert applied[0] == (1, "001_log.sql")
    assert [version for version, _ in applied] == list(range(1, len(applied) + 1))


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    before = query(database_url, "SELECT * FROM migrations")
    schema.migrate(database_url)
    assert query(database_url, "SELECT * FROM migrations") == before


def test_a_database_without_tables_is_said_to_be_so(bare_database_url: str) -> None:
    with pytest.raises(schema.SchemaError, match="it has no tables of Minutebook yet; migrate it first"):
        schema.check(bare_database_url)


def test_a_missing_migration_is_said_to_be_missing(database_url: str) -> None:
    query(database_url, "DELETE FROM migrations WHERE version = 1")
    with pytest.raises(schema.SchemaError, match="1 migrations are missing; migrate it first"):
        schema.check(database_url)


@pytest.mark.parametrize("act", [schema.check, schema.migrate])
def test_a_newer_schema_is_left_alone(database_url: str, act: object) -> None:
    query(database_url, "INSERT INTO migrations (version, name) VALUES (9999, 'from the future')")
    with pytest.raises(schema.SchemaError, match="its schema is version 9999 and this program knows"):
        act(database_url)  # type: ignore[operator]


@pytest.mark.parametrize("act", [schema.check, schema.migrate])
def test_an_old_server_is_refused(database_url: str, act: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_SERVER", 99)
    with pytest.raises(schema.SchemaError, match="PostgreSQL 99 or newer is needed and the server is"):
        act(database_url)  # type: ignore[operator]


@pytest.mark.parametrize("act", [schema.check, schema.migrate])
def test_a_database_that_cannot_hold_every_letter_is_refused(postgres: str, act: Any) -> None:
    with psycopg.connect(postgres, autocommit=True) as owner:
        owner.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(schema.SchemaError, match="its encoding is SQL_ASCII; make one with ENCODING"):
                act(postgres.replace("/minutebook?", "/ascii?"))
        finally:
            owner.execute("DROP DATABASE ascii WITH (FORCE)")
