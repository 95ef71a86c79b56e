"""One reader's place in a feed: a bounded queue of what is new, and how far behind it begins."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from application.frames import event_fields
from application.ports import LoggedEvent

QUEUE_ITEMS: Final = 256
PAGE: Final = 500
# The first page of a reader who is behind; the next ones grow while they stay below PAGE_BYTES.
FIRST_PAGE: Final = 50
PAGE_BYTES: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class FeedItem:
    """One message of a feed: an event with its position, or a provisional frame without one."""

    type: str
    position: int | None
    body: Mapping[str, Any]
    # The bytes on the wire, made once for all who watch (filled by the SSE encoder).
    encoded: bytes | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """Consecutive events that concern the same readers."""

    items: Sequence[FeedItem]
    # The bytes on the wire of them all, made once for all who watch (filled by the SSE encoder).
    encoded: bytes | None = None


Push = Callable[[Batch], bool]


@dataclass(slots=True, eq=False)
class Subscription:
    """One reader's place: a bounded queue, and how far the queue's part begins.

    A reader too slow for its queue loses the queue, not an event: it reads pages of the log from
    its own position until it has caught up.
    """

    conversation_id: str | None
    owner: str | None
    # Every event after this position that concerns the reader is, or was, in the queue.
    since: int
    items: deque[FeedItem] = field(default_factory=deque)
    is_behind: bool = False
    page: int = FIRST_PAGE
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    # Sends a batch at once, past the queue; False where the reader cannot take it now.
    push: Push | None = None
    # The newest position that the reader was given.
    position: int = 0
    # All that was queued is sent, and the reader waits for more.
    is_idle: bool = False

    def give(self, batch: Batch) -> None:
        """Send a batch at once to a reader who keeps up, queue it for any other."""
        first, last = batch.items[0].position or 0, batch.items[-1].position or 0
        is_next = self.is_idle and not self.items and not self.is_behind and first > self.position
        if is_next and self.push and self.push(batch):
            self.position = last
            return
        for item in batch.items:
            self.offer(item)

    def offer(self, item: FeedItem) -> None:
        """Queue an item; a full queue is given up, and provisional frames are the first to go."""
        if self.is_behind:
            return
        if len(self.items) >= QUEUE_ITEMS:
            if item.position is None:
                return
            self.fall_behind()
        else:
            self.items.append(item)
        self.woken.set()

    def fall_behind(self) -> None:
        """Give the queue up: what was in it is read from the log."""
        self.items.clear()
        self.is_behind = True

    def catch_up_from(self, head: int) -> None:
        """Begin a new queue; what is at or before `head` has to be read from the log."""
        self.items.clear()
        self.is_behind = False
        self.since = head

    def was_given(self, page: Sequence[FeedItem]) -> None:
        """Read more the next time where this page was small, less where it was large."""
        size = sum(len(item.encoded or b"") for item in page)
        self.page = max(1, self.page // 4) if size > PAGE_BYTES else min(PAGE, self.page * 2)

    def take(self) -> list[FeedItem]:
        """Take all that is queued and was not given before."""
        taken = [item for item in self.items if item.position is None or item.position > self.position]
        self.items.clear()
        self.woken.clear()
        return taken


def feed_item(event: LoggedEvent) -> FeedItem:
    """Return an event as a feed says it."""
    about = {"conversation_id": event.conversation_id, "turn_id": event.turn_id}
    return FeedItem(event.type, event.position, {**about, **event_fields(event)})
