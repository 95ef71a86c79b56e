"""Watching over HTTP: the events of one conversation or of all, from any position, live, for ever."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from functools import partial

from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse

from api.auth import Chatter, Identity
from api.direct import Direct, as_chunk
from api.parameters import KNOWN_ONLY, LastSeen
from api.reading import ConversationId
from api.sse import HEARTBEAT, PIECE_BYTES, SEND_TIMEOUT_S, STREAMED, StreamResponse, one_line
from application.beginning import own_only
from application.errors import InvalidCursorError
from application.live import FeedLog, LiveFeed
from application.subscription import Batch, FeedItem, Push
from application.turns import TurnService
from domain.errors import ConversationNotFoundError

router = APIRouter(prefix="/v1", tags=["feeds"], dependencies=KNOWN_ONLY)

_POSITION = re.compile(r"[0-9]{1,18}\Z")


@router.get("/conversations/{conversation_id}/feed", response_class=EventSourceResponse, responses=STREAMED)
async def watch_conversation(
    conversation_id: ConversationId, request: Request, caller: Chatter, last_seen: LastSeen
) -> EventSourceResponse:
    """Stream a conversation's events, and what its running turn says meanwhile (without an id)."""
    is_stored = await _is_stored(request, conversation_id, caller)
    position = await _begun(request, last_seen)
    live: LiveFeed = request.app.state.live
    if is_stored:
        push = _pushing(Direct.of(request.scope))
        return _answer(live.watch(position, conversation_id=conversation_id, push=push))
    turns: TurnService = request.app.state.turns
    items = live.watch(position, conversation_id=conversation_id)
    return _answer(own_only(items, partial(turns.is_own, subject=caller.subject)))


async def _is_stored(request: Request, conversation_id: str, caller: Identity) -> bool:
    """Return whether one's own conversation is stored; if not, its first turn runs.

    Raises `ConversationNotFoundError`.
    """
    log: FeedLog = request.app.state.log
    owner = await log.owner_of(conversation_id)
    if owner is None:
        if await request.app.state.turns.running_in(conversation_id, caller.subject):
            return False
        owner = await log.owner_of(conversation_id)  # it may have been stored while we asked
    if owner != caller.subject:
        raise ConversationNotFoundError
    return True


@router.get("/feed", response_class=EventSourceResponse, responses=STREAMED)
async def watch_all(request: Request, caller: Chatter, last_seen: LastSeen) -> EventSourceResponse:
    """Stream the events of all conversations: one's own, or everybody's for operators and auditors."""
    owner = None if caller.scopes & {"operate", "audit"} else caller.subject
    position = await _begun(request, last_seen)
    live: LiveFeed = request.app.state.live
    return _answer(live.watch(position, owner=owner, push=_pushing(Direct.of(request.scope))))


async def _begun(request: Request, cursor: str | None) -> int:
    """Return the position that a feed begins behind. Raises `InvalidCursorError`."""
    log: FeedLog = request.app.state.log
    position = _position(cursor)
    head = await log.head()
    if position is None:
        return head
    if position > head:
        raise InvalidCursorError(reason=f"it is beyond the newest event, {head}")
    return position


def _answer(items: AsyncIterator[list[FeedItem]]) -> EventSourceResponse:
    return StreamResponse(_pieces(items), SEND_TIMEOUT_S)


def _pushing(direct: Direct | None) -> Push | None:
    """Return how to send to a reader who keeps up: the same bytes to all of them, without waking a task."""
    if direct is None:
        return None

    def push(batch: Batch) -> bool:
        if batch.encoded is None:
            batch.encoded = as_chunk(b"".join(map(encoded, batch.items)))
        return len(batch.encoded) <= PIECE_BYTES and direct.write(batch.encoded)

    return push


async def _pieces(items: AsyncIterator[list[FeedItem]]) -> AsyncIterator[bytes]:
    async with aclosing(items) as batches:  # type: ignore[type-var]  # a generator
        async for batch in batches:
            if not batch:
                yield HEARTBEAT
            for piece in _joined(batch):
                yield piece
            piece = b""
            del batch  # a feed that waits keeps nothing of what it has said


def _joined(batch: list[FeedItem]) -> Iterator[bytes]:
    """Return several items as one piece, so that they leave in one write; large ones leave alone."""
    waiting: list[bytes] = []
    size = 0
    for item in batch:
        waiting.append(encoded(item))
        size += len(waiting[-1])
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def encoded(item: FeedItem) -> bytes:
    """Return the item's bytes on the wire; only what is stored has an id."""
    if item.encoded is None:
        head = (
            f"event: {item.type}\n" if item.position is None else f"id: {item.position}\nevent: {item.type}\n"
        )
        item.encoded = b"%bdata: %b\n\n" % (head.encode(), one_line(item.body))
    return item.encoded


def _position(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not _POSITION.match(cursor):
        raise InvalidCursorError(reason="it is a position in the log, a whole number")
    return int(cursor)
