"""What a read model is: its tables, which rows an event touches, and the fold that changes them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar, Protocol

from application.ports import LoggedEvent

Row = dict[str, Any]
Key = tuple[Any, ...]
RowKey = tuple[str, Key]  # (table, key)


@dataclass(frozen=True)
class Table:
    """One table of a read model: its columns with their SQL types, its key, its indexes.

    `indexes` are what follows `CREATE INDEX … ON <table>`, as `(owner, position)` or
    `USING gin (to_tsvector('simple', content))`.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...]
    indexes: tuple[str, ...] = ()

    @cached_property
    def key_of(self) -> Callable[[Row], Key]:
        """What returns the key of a row."""
        if len(self.key) > 1:
            return itemgetter(*self.key)  # a generator takes six times as long
        (name,) = self.key
        return lambda row: (row[name],)

    @cached_property
    def conversation_at(self) -> int | None:
        """Where the conversation stands in the key, None where it does not."""
        return self.key.index("conversation") if "conversation" in self.key else None


@dataclass
class Rows:
    """The rows a fold works on: loaded before, written after, by whoever runs the fold.

    The fold knows nothing of a database. `changed` is every row that was put, `dropped` every one
    that was taken away.
    """

    loaded: dict[RowKey, Row] = field(default_factory=dict)
    changed: dict[RowKey, Row] = field(default_factory=dict)
    dropped: set[RowKey] = field(default_factory=set)
    # Conversations of which a table holds nothing any more but what is in `changed`: (table, conversation).
    purged: set[tuple[str, str]] = field(default_factory=set)
    # By table, from its first purge on: where the conversation stands in its key, and of each the rows that
    # are or were here. The next purge need not look through all rows, and until the first nothing is noted.
    _here: dict[str, tuple[int, dict[Any, list[RowKey]]]] = field(default_factory=dict)

    def get(self, table: Table, *key: Any) -> Row | None:
        """Return the row as it stands now, or None. To change it, change a copy and `put` it."""
        about = (table.name, key)
        row = self.changed.get(about)
        return row if row or (self.dropped and about in self.dropped) else self.loaded.get(about)

    def put(self, table: Table, row: Row) -> None:
        """Let the row stand, new or instead of the one with its key."""
        about = (table.name, table.key_of(row))
        if self.dropped:
            self.dropped.discard(about)
        self.changed[about] = row
        if self._here:
            self._note([about])

    def take(self, loaded: Mapping[RowKey, Row]) -> None:
        """Add rows that were loaded later."""
        self.loaded.update(loaded)
        if self._here:
            self._note(loaded)

    def purge(self, table: Table, conversation_id: str) -> None:
        """Take away every row of the conversation, also those that nobody has loaded."""
        if table.conversation_at is None:
            return
        if table.name not in self._here:
            where = table.conversation_at
            self._here[table.name] = where, self._by_conversation(table.name, where)
        for about in self._here[table.name][1].pop(conversation_id, ()):
            self.loaded.pop(about, None)
            self.changed.pop(about, None)
        self.purged.add((table.name, conversation_id))

    def _by_conversation(self, table: str, where: int) -> dict[Any, list[RowKey]]:
        here = defaultdict[Any, list[RowKey]](list)
        for rows in (self.loaded, self.changed):
            for about in rows:
                if about[0] == table:
                    here[about[1][where]].append(about)
        return here

    def _note(self, rows: Iterable[RowKey]) -> None:
        for about in rows:
            if found := self._here.get(about[0]):
                where, here = found
                here[about[1][where]].append(about)

    def drop(self, table: Table, *key: Any) -> None:
        """Take the row away."""
        about = (table.name, key)
        self.changed.pop(about, None)
        self.dropped.add(about)


class ReadModel(Protocol):
    """One read model. Folding the same events in the same order gives the same rows, always.

    Every row belongs to one conversation, so that a rebuild can give conversations to several
    workers, and so that an erasure takes all its rows away before the fold sees the receipt.
    A change of the fold or its tables raises `version`, which lets `serve` rebuild it.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[tuple[Table, ...]]
    # The event types the fold reads; others move its checkpoint and nothing else.
    types: ClassVar[frozenset[str]]

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return every row the fold may read for this event, so that it can be loaded before."""

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Change the rows as this event says. Never raises for an event the log can hold."""
