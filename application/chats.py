"""A file of conversations from elsewhere, read: JSON, or JSON Lines with a conversation a line."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, Final

from application.importing import NotImportableError
from application.protocol import parsed_json
from domain.errors import MinutebookError

# The longest line, and the longest document that is not in lines: reading it takes some times as much memory.
MOST_BYTES: Final = 128 * 1024 * 1024
_HEAD: Final = 6  # lines that tell lines from a document
_PIECE: Final = 1024 * 1024

# A line with its number, None standing for one that is too long.
_Line = tuple[int, bytes | None]


def read_chats(file: BinaryIO, most_bytes: int = MOST_BYTES) -> Iterator[tuple[int, Any]]:
    """Return the conversations of a file with their numbers: of the line (JSON Lines), or in the array.

    A line that cannot be read comes as the exception that says why. Raises `MinutebookError` where the
    file is a document that cannot be read.
    """
    lines = _lines(file, most_bytes)
    head = list(islice(lines, _HEAD))
    if _is_json_lines(head):
        return _of_lines(chain(head, lines), most_bytes)
    value = parsed_json(_document(head, file, most_bytes))
    return enumerate(value if isinstance(value, list) else [value], 1)


def _of_lines(lines: Iterable[_Line], most_bytes: int) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        yield number, _value(line, most_bytes)


def _lines(file: BinaryIO, most_bytes: int) -> Iterator[_Line]:
    """Yield the lines that are not blank; of one that is too long a piece is in memory at a time."""
    number = 0
    while line := file.readline(most_bytes + 1):
        number += 1
        if len(line) <= most_bytes or line.endswith(b"\n"):
            if line.strip():
                yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PIECE)
        yield number, None


def _is_json_lines(head: Sequence[_Line]) -> bool:
    """Whether the first line is a whole JSON object and there is another line."""
    first, *rest = [(line or b"").strip() for _, line in head] or [b""]
    if not rest or first.startswith(b"["):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        # A first line that is no JSON: lines if any later one is, else one broken document.
        return any(line.startswith(b"{") and line.endswith(b"}") for line in rest)


def _value(line: bytes | None, most_bytes: int) -> Any:
    try:
        return parsed_json(_not_too_long(line, most_bytes))
    except MinutebookError as error:
        return error


def _document(head: Sequence[_Line], file: BinaryIO, most_bytes: int) -> bytes:
    text = b"".join(line for _, line in head if line is not None)
    text += file.read(max(0, most_bytes + 1 - len(text)))
    is_short = len(text) <= most_bytes and all(line is not None for _, line in head)
    return _not_too_long(text if is_short else None, most_bytes)


def _not_too_long(text: bytes | None, most_bytes: int) -> bytes:
    if text is None:
        raise NotImportableError(reason=f"it has more than {most_bytes:,} bytes")
    return text
