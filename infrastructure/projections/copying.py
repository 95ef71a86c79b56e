"""Rows as the lines of a COPY, column by column: most values need no more than to be joined."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from infrastructure.projections.read_model import Row

Write = Callable[[Sequence[Any]], Iterable[str]]  # the values of a column, as they stand in their lines

_LINES: Final = 1_000  # rows written together
_NULL: Final = "\\N"
_SPECIAL: Final = ("\\", "\n", "\t", "\r")


class Lines:
    """Writes rows as the lines that `COPY … FROM STDIN` takes."""

    def __init__(self, writes: Mapping[str, Write]) -> None:
        self._values = itemgetter(*writes) if len(writes) > 1 else _only(*writes)
        self._writes = tuple(writes.values())

    def of(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """Return the lines, many at a time."""
        values = map(self._values, rows)
        while some := list(islice(values, _LINES)):
            columns = zip(*some, strict=True)
            written = [write(column) for write, column in zip(self._writes, columns, strict=True)]
            yield ("\n".join(map("\t".join, zip(*written, strict=True))) + "\n").encode()


def _only(name: str) -> Callable[[Row], tuple[Any]]:
    return lambda row: (row[name],)


def writer(kind: str) -> Write | None:
    """Return what writes a column of this type (in capitals), None where nothing here does."""
    return _WRITERS.get(kind)


def _texts(column: Sequence[str | None]) -> Iterable[str]:
    if None in column:
        return [_NULL if text is None else _escaped(text) for text in column]
    whole = "".join(column)  # type: ignore[arg-type] # there is no None in it
    if whole.isascii() and "\0" not in whole and not any(mark in whole for mark in _SPECIAL):
        return column  # type: ignore[return-value]
    return map(_escaped, column)  # type: ignore[arg-type]


def _escaped(text: str) -> str:
    text = cleaned(text)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text:
        text = text.replace("\n", "\\n")
    if "\t" in text:
        text = text.replace("\t", "\\t")
    return text.replace("\r", "\\r") if "\r" in text else text


def cleaned(text: str) -> str:
    """Return a text as PostgreSQL takes it: it knows no NUL and no half of a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _plain(column: Sequence[Any]) -> Iterable[str]:
    """Write numbers and times, in whose texts nothing is special."""
    if None in column:
        return [_NULL if value is None else str(value) for value in column]
    return map(str, column)


_WRITERS: Final[Mapping[str, Write]] = {
    "TEXT": _texts,
    "BIGINT": _plain,
    "INT": _plain,
    "INTEGER": _plain,
    "BOOLEAN": _plain,
    "TIMESTAMPTZ": _plain,
}
