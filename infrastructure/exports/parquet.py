"""Exports as Parquet: typed columns, row groups of bounded size, written as they fill."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from infrastructure.exports.told import Told

GROUP_ROWS: Final = 20_000
GROUP_BYTES: Final = 16 * 1024 * 1024

SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("recorded_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("stream", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("type", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("conversation", pa.string(), nullable=False),
        pa.field("turn", pa.string(), nullable=False),
        pa.field("actor", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("data", pa.string(), nullable=False),
    ]
)


class _Drain(io.RawIOBase):
    """A file that is only written, whose bytes are taken away again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._at = 0
        self._waiting: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._waiting.append(taken)
        self._at += len(taken)
        return len(taken)

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken, self._waiting = b"".join(self._waiting), []
        return taken


class ParquetEncoder:
    """Row groups of events, each written when it is full; then the footer."""

    def __init__(self) -> None:
        self._drain = _Drain()
        self._writer = writer(self._drain)
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def begin(self) -> bytes:
        return self._drain.take()

    def encode(self, events: Sequence[Told]) -> bytes:
        for event in events:
            row, data = event.row, event.data
            self._rows.append(
                (row.position, row.recorded_at, row.stream, row.version, row.type, row.conversation, row.turn,
                 row.actor, data)
            )  # fmt: skip
            self._bytes += len(data)
            if len(self._rows) == GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self._write()
        return self._drain.take()

    def end(self) -> bytes:
        self._write()
        self._writer.close()
        return self._drain.take()

    def _write(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [_array(values, field) for values, field in zip(columns, SCHEMA, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), row_group_size=GROUP_ROWS)
            self._rows, self._bytes = [], 0


def _array(values: Sequence[Any], field: Any) -> Any:
    if pa.types.is_dictionary(field.type):
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, field.type)


def writer(sink: Any) -> Any:
    """Return what writes our columns there."""
    return pq.ParquetWriter(sink, SCHEMA, compression="zstd", write_statistics=True)


def merge(parts: Iterable[Path | None], sink: Any) -> Iterable[int]:
    """Write the row groups of these files to one; yields the offset reached after each part.

    A part that is None has no events. The last offset comes after the footer.
    """
    whole = writer(sink)
    for part in parts:
        if part is not None:
            with pq.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    whole.write_table(file.read_row_group(number), row_group_size=GROUP_ROWS)
        yield sink.tell()
    whole.close()
    yield sink.tell()
