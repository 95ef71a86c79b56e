"""Arrays in PostgreSQL's binary form, written in one pass.

psycopg can do this too, for any type and any depth, and takes longer over it than the server over
the whole append; its integer arrays also change their type with their values, which makes another
prepared statement each time.
"""

from collections.abc import Iterable
from struct import Struct
from typing import ClassVar

from psycopg import pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper

_HEADER = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_LENGTH = Struct("!i").pack
_INT4 = Struct("!ii").pack
_INT8 = Struct("!iq").pack
_NULL = b"\xff\xff\xff\xff"


class Array:
    """An array of PostgreSQL, encoded and ready to be sent."""

    element: ClassVar[int]
    oid: ClassVar[int]
    __slots__ = ("encoded",)

    def __init__(self, elements: list[bytes], count: int) -> None:
        header = _HEADER.pack(1, 1, self.element, count, 1) if count else _EMPTY.pack(0, 0, self.element)
        self.encoded = header + b"".join(elements)


class _Texts(dict[str | None, bytes]):
    """Encodes each text once: the events of a save have one stream, one turn, one actor."""

    def __missing__(self, text: str) -> bytes:
        raw = text.encode()
        encoded = self[text] = _LENGTH(len(raw)) + raw
        return encoded


class TextArray(Array):
    """`text[]`; None is NULL."""

    element, oid = 25, 1009

    def __init__(self, values: Iterable[str | None]) -> None:
        elements = list(map(_Texts({None: _NULL}).__getitem__, values))
        super().__init__(elements, len(elements))


class ByteaArray(Array):
    """`bytea[]`; None is NULL."""

    element, oid = 17, 1001

    def __init__(self, values: Iterable[bytes | None]) -> None:
        elements = [_NULL if value is None else _LENGTH(len(value)) + value for value in values]
        super().__init__(elements, len(elements))


class Int4Array(Array):
    """`int[]`; None is NULL."""

    element, oid = 23, 1007

    def __init__(self, values: Iterable[int | None]) -> None:
        elements = [_NULL if value is None else _INT4(4, value) for value in values]
        super().__init__(elements, len(elements))


class Int8Array(Array):
    """`bigint[]`; None is NULL."""

    element, oid = 20, 1016

    def __init__(self, values: Iterable[int | None]) -> None:
        elements = [_NULL if value is None else _INT8(8, value) for value in values]
        super().__init__(elements, len(elements))


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.encoded


class _TextArrayDumper(_ArrayDumper):
    oid = TextArray.oid


class _ByteaArrayDumper(_ArrayDumper):
    oid = ByteaArray.oid


class _Int4ArrayDumper(_ArrayDumper):
    oid = Int4Array.oid


class _Int8ArrayDumper(_ArrayDumper):
    oid = Int8Array.oid


def register(context: AdaptContext) -> None:
    """Let the connection send these arrays."""
    context.adapters.register_dumper(TextArray, _TextArrayDumper)
    context.adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
    context.adapters.register_dumper(Int4Array, _Int4ArrayDumper)
    context.adapters.register_dumper(Int8Array, _Int8ArrayDumper)
