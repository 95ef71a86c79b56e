"""One page of the log into one read model: its rows and its checkpoint in one transaction."""

from typing import Final, Protocol

import psycopg

from application.ports import LoggedEvent
from infrastructure.projections.read_model import ReadModel, RowKey, Rows
from infrastructure.projections.reading import Page
from infrastructure.projections.values import ERASURE
from infrastructure.projections.writing import Store

# SQLSTATE classes that say: it is these values, and they would be refused again.
_REFUSED: Final = ("21", "22", "23", "42", "54")


class Mark(Protocol):
    """A checkpoint that moves only from where it is expected to be."""

    def move(self, connection: psycopg.Connection, old: int, new: int) -> bool: ...


class FoldError(Exception):
    """The event at this position cannot be folded."""

    def __init__(self, position: int, cause: Exception) -> None:
        super().__init__(position, cause)
        self.position = position
        self.why = f"{type(cause).__name__}: {cause}"

    def __str__(self) -> str:
        return f"the event at position {self.position} cannot be folded: {self.why}"


def fold_page(
    connection: psycopg.Connection, model: ReadModel, store: Store, mark: Mark, page: Page
) -> int | None:
    """Fold the page and return the position reached; None when another was there first.

    Where an event cannot be folded, all before it are, and then `FoldError` is raised for it. The
    checkpoint is moved first: who has moved it has locked it.
    """
    try:
        return _fold(connection, model, store, mark, page)
    except FoldError as failure:
        if failure.position - 1 > page.after:
            fold_page(connection, model, store, mark, page.until(failure.position - 1))
        raise
    except psycopg.Error as error:
        if connection.closed or not (error.sqlstate or "").startswith(_REFUSED):
            raise
        if page.last - page.after == 1:
            raise FoldError(page.last, error) from error
        # One of its events is to blame: the caller comes back for the other half.
        middle = (page.after + page.last) // 2
        return fold_page(connection, model, store, mark, page.until(middle))


def _fold(
    connection: psycopg.Connection, model: ReadModel, store: Store, mark: Mark, page: Page
) -> int | None:
    with connection.transaction():
        if not mark.move(connection, page.after, page.last):
            return None
        store.write(connection, _folded(connection, model, store, page))
    return page.last


def fold_one(model: ReadModel, rows: Rows, event: LoggedEvent) -> None:
    """Fold one event; of an erased conversation everything goes first that any table holds of it."""
    if event.type == ERASURE:
        for table in model.tables:
            rows.purge(table, event.conversation_id)
    if event.type in model.types:
        model.fold(rows, event)


def _folded(connection: psycopg.Connection, model: ReadModel, store: Store, page: Page) -> Rows:
    events = [event for event in page.events if event.type in model.types or event.type == ERASURE]
    rows, position = Rows(), page.last
    try:
        keys = set[RowKey]()
        for event in events:
            position = event.position
            if event.type in model.types:
                keys.update(model.keys(event))
        rows.loaded = store.load(connection, keys)
        for event in events:
            position = event.position
            fold_one(model, rows, event)
    except psycopg.Error:
        raise
    except Exception as error:
        raise FoldError(position, error) from error
    return rows
