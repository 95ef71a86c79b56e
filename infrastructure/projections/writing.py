"""The tables of a read model: made, loaded, written and dropped."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from infrastructure.projections.copying import Packed, array_text, cleaned, writer
from infrastructure.projections.read_model import Key, ReadModel, Row, RowKey, Rows, Table

_JSON: Final = frozenset({"json", "jsonb"})
_VACUUM: Final = ("autovacuum_enabled", "toast.autovacuum_enabled")
_GRANT: Final = "SELECT FROM pg_roles WHERE rolname = 'minutebook_app'"


def _at_once() -> None:
    return None


class Store:
    """The tables of one read model; those of a rebuild have names that end in a suffix of their own."""

    def __init__(self, model: ReadModel, suffix: str = "") -> None:
        self.tables = {table.name: _Table(table, suffix) for table in model.tables}

    def create(self, connection: psycopg.Connection, *, vacuumed: bool = True) -> None:
        """Make the tables, with their keys and without further indexes.

        Those that are not `vacuumed` are left alone until they take over: an index waits a second for
        autovacuum to give way.
        """
        for table in self.tables.values():
            connection.execute(table.create)
            if not vacuumed:
                connection.execute(table.leave_alone)
            if connection.execute(_GRANT).fetchone() is not None:  # a row without columns is an empty tuple
                connection.execute(table.grant)

    @property
    def indexes(self) -> list[bytes]:
        """What makes the indexes that are not there yet: first those that take longest."""
        statements = [statement for table in self.tables.values() for statement in table.indexes]
        return sorted(statements, key=lambda statement: b" USING gin " not in statement)

    def create_indexes(self, connection: psycopg.Connection) -> None:
        """Make the indexes and the statistics, once the tables are full."""
        for statement in self.indexes:
            connection.execute(statement)
        self.analyze(connection)

    def analyze(self, connection: psycopg.Connection) -> None:
        """Make the statistics for the planner."""
        for table in self.tables.values():
            connection.execute(table.analyze)

    def take_over(self, connection: psycopg.Connection, retired: str) -> None:
        """Let the tables answer from now on; those that did get names with this suffix."""
        for table in self.tables.values():
            for statement in table.take_over(retired):
                connection.execute(statement)

    def wait_for_others(self, connection: psycopg.Connection) -> None:
        """Wait for indexes that the server still makes for a process that is gone."""
        for table in self.tables.values():
            with connection.transaction():
                connection.execute(table.lock)

    def exists(self, connection: psycopg.Connection) -> bool:
        """Return whether all the tables are there."""
        names = [table.name for table in self.tables.values()]
        row = connection.execute(
            "SELECT count(to_regclass(quote_ident(name))) FROM unnest(%s::text[]) AS t (name)", [names]
        ).fetchone()
        return row is not None and row[0] == len(names)

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the tables that are there."""
        for table in self.tables.values():
            connection.execute(table.drop)

    def load(self, connection: psycopg.Connection, keys: Iterable[RowKey]) -> dict[RowKey, Row]:
        """Return those of the rows that are there, in one query a table."""
        asked: dict[str, list[Key]] = defaultdict(list)
        for name, key in keys:
            asked[name].append(key)
        loaded: dict[RowKey, Row] = {}
        for name, wanted in asked.items():
            loaded.update(self.tables[name].load(connection, wanted))
        return loaded

    def write(self, connection: psycopg.Connection, rows: Rows) -> None:
        """Write what was put and dropped, over what is there."""
        self._purge(connection, rows)
        for name, (changed, dropped) in _by_table(rows).items():
            table = self.tables[name]
            table.delete_rows(connection, dropped)
            table.upsert_rows(connection, changed.values())

    def bulk_write(
        self, connection: psycopg.Connection, rows: Rows, between: Callable[[], None] = _at_once
    ) -> None:
        """Write the same through COPY, in the caller's transaction; rows in `rows.loaded` are replaced.

        `between` is called every hundred rows or so.
        """
        replaced: dict[str, list[Key]] = defaultdict(list)
        self._purge(connection, rows)
        for name, key in (*rows.dropped, *(rows.changed.keys() & rows.loaded.keys())):
            replaced[name].append(key)
        for name, keys in replaced.items():
            self.tables[name].delete_rows(connection, keys)
        for name, changed in _grouped(rows).items():
            table = self.tables[name]
            try:
                with connection.transaction():
                    table.copy_rows(connection, changed, between)
            except psycopg.errors.UniqueViolation:  # a fold has put what it had not asked for
                table.delete_rows(connection, [table.key_of(row) for row in changed])
                table.copy_rows(connection, changed, between)

    def _purge(self, connection: psycopg.Connection, rows: Rows) -> None:
        for name, conversation in sorted(rows.purged):
            self.tables[name].purge(connection, conversation)


def _grouped(rows: Rows) -> dict[str, list[Row]]:
    """Return what was put, by table, the rows of a conversation side by side.

    Where they stand together they are found together, and their keys go to the same pages of an index.
    """
    groups: dict[str, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for (name, key), row in rows.changed.items():
        groups[name][key[0]].append(row)
    return {name: list(chain.from_iterable(some.values())) for name, some in groups.items()}


def _by_table(rows: Rows) -> dict[str, tuple[dict[Key, Row], list[Key]]]:
    written: dict[str, tuple[dict[Key, Row], list[Key]]] = defaultdict(lambda: ({}, []))
    for (name, key), row in rows.changed.items():
        written[name][0][key] = row
    for name, key in rows.dropped:
        written[name][1].append(key)
    return written


class _Table:
    """The statements of one table."""

    def __init__(self, table: Table, suffix: str) -> None:
        self._base = table.name
        self.name = name = f"{table.name}{suffix}"
        self.key_of = table.key_of
        self._names = tuple(table.columns)
        encoders = enumerate(_encoder(kind) for kind in table.columns.values())
        self._encoders = tuple((index, encode) for index, encode in encoders if encode is not _as_it_is)
        self._key_encoders = tuple(_encoder(table.columns[column]) for column in table.key)
        writes = {name: writer(_plain_type(kind)) for name, kind in table.columns.items()}
        known = {name: write for name, write in writes.items() if write}
        self._packed = Packed(known) if len(known) == len(writes) else None
        names, key = ", ".join(self._names), ", ".join(table.key)
        columns = ", ".join(f"{column} {kind}" for column, kind in table.columns.items())
        values = ", ".join(f"%s::{_plain_type(kind)}" for kind in table.columns.values())
        rest = [column for column in self._names if column not in table.key]
        updates = ", ".join(f"{column} = excluded.{column}" for column in rest)
        arrays = ", ".join(f"%s::{_plain_type(table.columns[column])}[]" for column in table.key)
        matches = " AND ".join(f"t.{column} = k.{column}" for column in table.key)
        self.create = f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}))".encode()
        self.grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO minutebook_app".encode()
        self.drop = f"DROP TABLE IF EXISTS {name}".encode()
        self.indexes = [
            f"CREATE INDEX IF NOT EXISTS {name}_index{number} ON {name} {index}".encode()
            for number, index in enumerate(table.indexes)
        ]
        self.leave_alone = f"ALTER TABLE {name} SET ({' = off, '.join(_VACUUM)} = off)".encode()
        self.lock = f"LOCK TABLE {name} IN SHARE UPDATE EXCLUSIVE MODE".encode()
        self.analyze = f"ANALYZE {name}".encode()
        self._select = (
            f"SELECT {', '.join(map(_loaded, table.columns.items()))}"
            f"  FROM unnest({arrays}) AS k ({key}) JOIN {name} t ON {matches}"
        ).encode()
        self._delete = f"DELETE FROM {name} t USING unnest({arrays}) AS k ({key}) WHERE {matches}".encode()
        self._upsert = (
            f"INSERT INTO {name} ({names}) VALUES ({values}) ON CONFLICT ({key}) DO "
            + (f"UPDATE SET {updates}" if rest else "NOTHING")
        ).encode()
        self._copy = f"COPY {name} ({names}) FROM STDIN{' (FORMAT binary)' * bool(self._packed)}".encode()

    def load(self, connection: psycopg.Connection, keys: Collection[Key]) -> dict[RowKey, Row]:
        # A key may have been cleaned on its way into the table; the fold asks for it as it was.
        asked = {self._clean(key): key for key in keys}
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(self._select, self._arrays(asked), prepare=True)
        rows = (dict(zip(self._names, values, strict=True)) for values in cursor)
        return {(self._base, asked[self.key_of(row)]): row for row in rows}

    def take_over(self, retired: str) -> list[bytes]:
        renamed = {self._base: f"{self._base}{retired}", self.name: self._base}
        statements = [f"ALTER TABLE {old} RENAME TO {new}".encode() for old, new in renamed.items()]
        return [*statements, f"ALTER TABLE {self._base} RESET ({', '.join(_VACUUM)})".encode()]

    def delete_rows(self, connection: psycopg.Connection, keys: Collection[Key]) -> None:
        if keys:
            connection.execute(self._delete, self._arrays(map(self._clean, keys)), prepare=True)

    def purge(self, connection: psycopg.Connection, conversation: str) -> None:
        statement = f"DELETE FROM {self.name} WHERE conversation = %s".encode()
        connection.execute(statement, [conversation], prepare=True)

    def upsert_rows(self, connection: psycopg.Connection, rows: Collection[Row]) -> None:
        if rows:
            connection.cursor().executemany(self._upsert, [self._encoded(row) for row in rows])

    def copy_rows(
        self, connection: psycopg.Connection, rows: Collection[Row], between: Callable[[], None]
    ) -> None:
        if rows:
            with connection.cursor().copy(self._copy) as copy:
                for some in self._packed.of(rows) if self._packed else ():
                    copy.write(some)
                    between()
                for row in () if self._packed else rows:
                    copy.write_row(self._encoded(row))

    def _encoded(self, row: Row) -> list[Any]:
        values = [row[name] for name in self._names]
        for index, encode in self._encoders:
            if values[index] is not None:
                values[index] = encode(values[index])
        return values

    def _clean(self, key: Key) -> Key:
        return tuple(encode(part) for encode, part in zip(self._key_encoders, key, strict=True))

    def _arrays(self, keys: Iterable[Key]) -> list[list[Any]]:
        return [list(column) for column in zip(*keys, strict=True)]


def _loaded(column: tuple[str, str]) -> str:
    """Return what is selected for a column: of an array its elements, as they are written."""
    name, kind = column
    return f"substr(array_send(t.{name}), 21) AS {name}" if kind.endswith("[]") else f"t.{name}"


def _plain_type(kind: str) -> str:
    """Return the type of a column, without what else its definition says."""
    return kind.upper().partition(" NOT NULL")[0].partition(" DEFAULT")[0]


def _encoder(kind: str) -> Callable[[Any], Any]:
    base = _plain_type(kind).lower()
    if base in _JSON:
        return _json_text if base == "json" else _jsonb_text
    if base == "int[]":
        return array_text
    return cleaned if base.startswith(("text", "varchar")) and "[" not in base else _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _json_text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _jsonb_text(value: Any) -> str:
    text = _json_text(value)
    return _json_text(_clean(value)) if "\\u" in text else text


def _clean(value: Any) -> Any:
    """Return a JSON value without the texts that jsonb refuses."""
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, dict):
        return {cleaned(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value
