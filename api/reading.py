"""What the read endpoints share: answers with their position and ETag, cursors, and what may be asked."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator

from application.errors import InvalidCursorError
from application.protocol import ID_PATTERN, storable
from application.queries import Page
from application.reading import Reads
from domain.errors import ConversationNotFoundError

T = TypeVar("T")
POSITION_HEADER: Final = "Minutebook-Position"
_MOST: Final = 2**63 - 1
_BAD_CURSOR: Final = "it is none that this address has given"


async def _known_id(conversation_id: Annotated[str, Path()]) -> str:
    """Return the id of the address; one that no conversation can have is no conversation."""
    if not re.fullmatch(ID_PATTERN, conversation_id):
        raise ConversationNotFoundError
    return conversation_id


async def _reads(request: Request) -> Reads:
    reads: Reads = request.app.state.reads
    return reads


ConversationId = Annotated[str, Depends(_known_id)]
TheReads = Annotated[Reads, Depends(_reads)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Word = Annotated[str, Query(min_length=1, max_length=500), AfterValidator(storable)]
Cursor = Annotated[str | None, Query(max_length=8000, description="`next` of the page before.")]
Bound = Annotated[str | None, Query(max_length=8000, description="`first` or `last` of another page.")]
MinPosition = Annotated[
    int,
    Query(
        ge=0, le=_MOST, description="Wait until the answer is at least as new as this position of the log."
    ),
]


@dataclass(frozen=True)
class _Paging:
    """Which page of a list, and how new it has to be."""

    limit: int
    cursor: str | None
    min_position: int


async def _paging(limit: Limit = 50, cursor: Cursor = None, min_position: MinPosition = 0) -> _Paging:
    return _Paging(limit, cursor, min_position)


Paging = Annotated[_Paging, Depends(_paging)]


# --- answers -------------------------------------------------------------------------------------


def answered(request: Request, position: int, body: Mapping[str, Any]) -> Response:
    """Answer with the position; 304 where the client has exactly this already.

    The ETag is weak and of all but the position, which moves with every event of anybody: the
    header `Minutebook-Position` says it with both answers.
    """
    etag = f'W/"{sha256(encoded(body)).hexdigest()[:32]}"'
    headers = {"ETag": etag, POSITION_HEADER: str(position), "Cache-Control": "private, no-cache"}
    if not _candidates(request).isdisjoint({"*", etag.removeprefix("W/")}):
        return Response(status_code=304, headers=headers)
    return Response(encoded({**body, "position": position}), 200, headers, media_type="application/json")


def _candidates(request: Request) -> set[str]:
    """Return what the client has, weak or not; only of a reading request is that a question."""
    given = request.headers.get("If-None-Match", "") if request.method == "GET" else ""
    return {tag.strip().removeprefix("W/") for tag in given.split(",")}


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return compact JSON."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_plain)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair in what a tool answered: only escapes can say it
        return json.dumps(body, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"JSON has no form for {type(value).__name__}")


# --- cursors -------------------------------------------------------------------------------------


def cursor_of(kind: str, *key: int | str) -> str:
    """Return the opaque cursor of a row: which list it is from, and where it stands in it."""
    text = json.dumps([kind, *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def next_of(kind: str, page: Page[T], key: Callable[[T], Sequence[int | str]]) -> str | None:
    """Return the cursor behind the page, None where nothing follows."""
    return cursor_of(kind, *key(page.items[-1])) if page.more else None


def place_of(kind: str, cursor: str | None) -> int | None:
    """Return the position that a cursor stands for. Raises `InvalidCursorError`."""
    if cursor is None:
        return None
    key = key_of(kind, cursor)
    if len(key) != 1 or type(key[0]) is not int or not 0 <= key[0] <= _MOST:
        raise InvalidCursorError(reason=_BAD_CURSOR)
    return key[0]


def names_of(kind: str, cursor: str | None, count: int) -> Sequence[str] | None:
    """Return the names that a cursor stands for. Raises `InvalidCursorError`."""
    if cursor is None:
        return None
    key = key_of(kind, cursor)
    if len(key) != count or not all(isinstance(name, str) for name in key):
        raise InvalidCursorError(reason=_BAD_CURSOR)
    return key


def key_of(kind: str, cursor: str) -> list[Any]:
    """Read a cursor. Raises `InvalidCursorError` for what is none, or one of another list."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = storable(json.loads(base64.b64decode(padded, altchars="-_", validate=True)))
    except (ValueError, RecursionError, binascii.Error):
        found = None
    if not isinstance(found, list) or not found or found[0] != kind:
        raise InvalidCursorError(reason=_BAD_CURSOR)
    return found[1:]
