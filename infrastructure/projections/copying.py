"""Rows in PostgreSQL's binary form for a COPY, many at a time: what is done once for all costs each a little.

The server takes them in two thirds of the time it has for texts: arrays and times are dear to read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, repeat
from operator import itemgetter
from struct import Struct, iter_unpack
from typing import Any, Final

from infrastructure.projections.read_model import Row

Write = Callable[[Sequence[Any]], Sequence[bytes]]  # the values of a column, each with its length before it

_ROWS: Final = 100  # written together: few enough for a processor to have them at hand
_LOOKED_AT: Final = 8  # values of a column that tell whether many of them are the same
_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_COUNT: Final = Struct("!h").pack
_LENGTH: Final = Struct("!i").pack
_INT4: Final = Struct("!ii").pack
_INT8: Final = Struct("!iq").pack
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"
_ARRAY: Final = Struct(
    "!iiiIii"
).pack  # length, dimensions, whether NULLs are in it, type, elements, first index
_NO_ARRAY: Final = Struct("!iiiI").pack(12, 0, 0, 23)
_ELEMENT: Final = 8  # bytes of a number in an array, its length included
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Packed:
    """Writes rows as `COPY … FROM STDIN (FORMAT binary)` takes them."""

    def __init__(self, writes: Mapping[str, Write]) -> None:
        self._values = itemgetter(*writes) if len(writes) > 1 else _only(*writes)
        self._writes = tuple(writes.values())

    def of(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """Return all that is sent, many rows at a time."""
        yield _BEGIN
        values, columns = map(self._values, rows), repeat(_COUNT(len(self._writes)))
        while some := list(islice(values, _ROWS)):
            written = (
                write(column) for write, column in zip(self._writes, zip(*some, strict=True), strict=True)
            )
            yield b"".join(chain.from_iterable(zip(columns, *written, strict=False)))
        yield _END


def _only(name: str) -> Callable[[Row], tuple[Any]]:
    return lambda row: (row[name],)


def writer(kind: str) -> Write | None:
    """Return what writes a column of this type (in capitals), None where nothing here does."""
    return _WRITERS.get(kind)


def _texts(column: Sequence[str | None]) -> Sequence[bytes]:
    if len(set(column[:_LOOKED_AT])) * 2 > min(len(column), _LOOKED_AT):
        return _all_texts(column)
    different = tuple(set(column))  # who says it, of which kind it is, where it stands
    known = dict(zip(different, _all_texts(different), strict=True))
    return [known[text] for text in column]


def _all_texts(column: Sequence[str | None]) -> Sequence[bytes]:
    if "\0" in "".join(filter(None, column)):
        column = [text and cleaned(text) for text in column]
    try:
        return [_NULL if text is None else _LENGTH(len(raw := text.encode())) + raw for text in column]
    except UnicodeEncodeError:
        return _all_texts([text and cleaned(text) for text in column])


def cleaned(text: str) -> str:
    """Return a text as PostgreSQL takes it: it knows no NUL and no half of a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _bigints(column: Sequence[int | None]) -> Sequence[bytes]:
    return [_NULL if value is None else _INT8(8, value) for value in column]


def _ints(column: Sequence[int | None]) -> Sequence[bytes]:
    return [_NULL if value is None else _INT4(4, value) for value in column]


def _booleans(column: Sequence[bool | None]) -> Sequence[bytes]:
    return [_NULL if value is None else _TRUE if value else _FALSE for value in column]


def _times(column: Sequence[datetime | None]) -> Sequence[bytes]:
    return [_NULL if at is None else _INT8(8, (at - _EPOCH) // _MICROSECOND) for at in column]


def _arrays(column: Sequence[bytes | None]) -> Sequence[bytes]:
    return [_NULL if numbers is None else _array(numbers) for numbers in column]


def _array(numbers: bytes) -> bytes:
    if not numbers:
        return _NO_ARRAY
    return _ARRAY(20 + len(numbers), 1, 0, 23, len(numbers) // _ELEMENT, 1) + numbers


def array_text(numbers: bytes) -> str:
    """Return the numbers of an array as a query takes them: `{1,2}`."""
    return f"{{{','.join(str(number) for _, number in iter_unpack('!ii', numbers))}}}"


_WRITERS: Final[Mapping[str, Write]] = {
    "TEXT": _texts,
    "BIGINT": _bigints,
    "INT": _ints,
    "INTEGER": _ints,
    "INT[]": _arrays,
    "BOOLEAN": _booleans,
    "TIMESTAMPTZ": _times,
}
