"""Rows as the lines of a COPY, many at a time: what is done once for all of them costs each a little."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from infrastructure.projections.read_model import Row

Write = Callable[[Sequence[Any]], Sequence[str]]  # the values of a column as texts

_LINES: Final = 100  # rows written together: few enough for a processor to have them at hand
_NULL: Final = "\\N"
_ESCAPES: Final = (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r"))
# They stand for the end of a value, the end of a row and NULL until all that is special is escaped. The first
# is what PostgreSQL has in no text.
_VALUE, _ROW, _NONE = "\0", "\x1e", "\x1d"
_MARKS: Final = {_VALUE.encode(): b"\t", _ROW.encode(): b"\n", _NONE.encode(): _NULL.encode()}
_REPLACED: Final = (*((old.encode(), new.encode()) for old, new in _ESCAPES), *_MARKS.items())


class Lines:
    """Writes rows as the lines that `COPY … FROM STDIN` takes."""

    def __init__(self, writes: Mapping[str, Write]) -> None:
        self._values = itemgetter(*writes) if len(writes) > 1 else _only(*writes)
        self._writes = tuple(writes.values())

    def of(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """Return the lines, many at a time."""
        values = map(self._values, rows)
        while some := list(islice(values, _LINES)):
            columns = list(zip(*some, strict=True))
            texts = [write(column) for write, column in zip(self._writes, columns, strict=True)]
            yield _together(columns, texts) or _one_by_one(columns, texts)


def _only(name: str) -> Callable[[Row], tuple[Any]]:
    return lambda row: (row[name],)


def writer(kind: str) -> Write | None:
    """Return what writes a column of this type (in capitals), None where nothing here does."""
    return _WRITERS.get(kind)


def _together(columns: Sequence[Sequence[Any]], texts: Sequence[Sequence[str]]) -> bytes | None:
    """Return the lines, None where a text has in it what PostgreSQL does not take, or one of the marks."""
    try:
        lines = (_ROW.join(map(_VALUE.join, zip(*texts, strict=True))) + _ROW).encode()
    except UnicodeEncodeError:
        return None
    rows, nulls = len(columns[0]), sum(column.count(None) for column in columns)
    counts = zip(_MARKS, (rows * (len(columns) - 1), rows, nulls), strict=True)
    if any(lines.count(mark) != count for mark, count in counts):
        return None
    for special, written in _REPLACED:
        lines = lines.replace(special, written)
    return lines


def _one_by_one(columns: Sequence[Sequence[Any]], texts: Sequence[Sequence[str]]) -> bytes:
    written = [
        [_NULL if value is None else _escaped(text) for value, text in zip(*column, strict=True)]
        for column in zip(columns, texts, strict=True)
    ]
    return ("\n".join(map("\t".join, zip(*written, strict=True))) + "\n").encode()


def _texts(column: Sequence[str | None]) -> Sequence[str]:
    if None in column:
        return [_NONE if text is None else text for text in column]
    return column  # type: ignore[return-value] # there is no None in it


def _escaped(text: str) -> str:
    text = cleaned(text)
    for special, written in _ESCAPES:
        if special in text:
            text = text.replace(special, written)
    return text


def cleaned(text: str) -> str:
    """Return a text as PostgreSQL takes it: it knows no NUL and no half of a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _plain(column: Sequence[Any]) -> Sequence[str]:
    """Write numbers and times, in whose texts nothing is special."""
    if None in column:
        return [_NONE if value is None else str(value) for value in column]
    return list(map(str, column))


_WRITERS: Final[Mapping[str, Write]] = {
    "TEXT": _texts,
    "BIGINT": _plain,
    "INT": _plain,
    "INTEGER": _plain,
    "INT[]": _texts,
    "BOOLEAN": _plain,
    "TIMESTAMPTZ": _plain,
}
