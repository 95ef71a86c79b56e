"""The live feed: every committed event, in order, to everybody who watches, encoded once for all of them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from application.errors import StoreUnavailableError
from application.frames import FAILED, Frame
from application.ports import LoggedEvent
from application.subscription import Batch, FeedItem, Push, Subscription, feed_item

HEARTBEAT_S: Final = 15.0
RETRY_S: Final = 0.5  # until a page is asked for again that the store could not give
_AT_ONCE: Final = 50


class FeedLog(Protocol):
    """The log as a feed reads it, for readers who are behind."""

    async def after(
        self, position: int, limit: int, *, conversation_id: str | None = None, owner: str | None = None
    ) -> tuple[Sequence[LoggedEvent], int | None]:
        """Return the next events after `position`, of one conversation or of one owner where given.

        With them comes how far the log was searched; None stands for its head.
        """

    async def head(self) -> int:
        """Return the position of the newest event."""

    async def owner_of(self, conversation_id: str) -> str | None:
        """Return the subject a stored conversation belongs to, or None where there is none."""


class LiveFeed:
    """Everybody who watches in this process. One tailer feeds it; it holds no connection."""

    def __init__(self, log: FeedLog) -> None:
        self.position = 0
        self.is_closed = False
        # Conversations somebody has begun to watch; whoever reads what runs in them elsewhere takes them out.
        self.newcomers: set[str] = set()
        self._log = log
        self._of_conversation: dict[str, set[Subscription]] = defaultdict(set)
        self._of_all: set[Subscription] = set()
        self._owners: dict[str, str] = {}

    # --- from the tailer and from running turns -----------------------------------------------------

    @property
    def conversations(self) -> AbstractSet[str]:
        """The conversations somebody watches here."""
        return self._of_conversation.keys()

    @property
    def has_readers(self) -> bool:
        """Whether anybody watches here."""
        return bool(self._of_all or self._of_conversation)

    def pass_over(self, position: int) -> None:
        """Go on after this position: nobody watched while the log got there."""
        self.position = max(self.position, position)

    async def publish(self, events: Sequence[LoggedEvent]) -> None:
        """Give the next events of the log, in order, to those they concern."""
        owners = await self._owners_of(events) if self._of_all else {}
        watched = [
            event for event in events if self._of_all or event.conversation_id in self._of_conversation
        ]
        items = [feed_item(event) for event in watched]
        for conversation_id, own in _grouped(items, _conversation_of).items():
            batch = Batch(own)
            for reader in self._of_conversation.get(conversation_id or "", ()):
                reader.give(batch)
        self._give_all(items, owners)
        self.position = events[-1].position

    def relay(self, frame: Frame) -> None:
        """Give a provisional frame of a running turn, or its failure, to those who watch the conversation."""
        if readers := self._of_conversation.get(frame.body["conversation_id"]):
            if "position" in frame.body or (frame.is_final and frame.type != FAILED):
                return
            item = FeedItem(frame.type, None, frame.body)
            for reader in readers:
                reader.offer(item)

    def forget(self, conversation_id: str) -> None:
        """Give up the queues with something of an erased conversation; the log says what is left of it."""
        for reader in self._readers():
            if any(item.body["conversation_id"] == conversation_id for item in reader.items):
                reader.fall_behind()

    def close(self) -> None:
        """End all feeds, so that their clients connect again, elsewhere."""
        self.is_closed = True
        for reader in self._readers():
            reader.woken.set()

    async def beat(self) -> None:
        """Wake every reader each `HEARTBEAT_S` seconds, a few at once, until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for number, reader in enumerate(self._readers()):
                reader.woken.set()
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0.001)

    def _readers(self) -> list[Subscription]:
        return [*self._of_all, *(one for some in self._of_conversation.values() for one in some)]

    # --- for readers ---------------------------------------------------------------------------------

    async def watch(
        self,
        after: int,
        *,
        conversation_id: str | None = None,
        owner: str | None = None,
        push: Push | None = None,
    ) -> AsyncIterator[list[FeedItem]]:
        """Yield what comes after a position for ever: in order, no gap, no repeat.

        A reader who is behind while the store is away stays, and goes on when it is back.

        A batch is empty where there was nothing for a while; whoever sends this on can show that it is there.
        With `push`, what is new goes that way while the reader keeps up.
        """
        reader = self._subscribe(conversation_id, owner, push)
        reader.position = after
        try:
            while not self.is_closed:
                if reader.position < reader.since or reader.is_behind:
                    try:
                        page, position = await self._page(reader)
                    except StoreUnavailableError:
                        yield []
                        await asyncio.sleep(RETRY_S)
                        continue
                    if page:
                        yield page
                        reader.was_given(page)
                    reader.position = position
                    del page  # whoever waits keeps nothing of what was said
                    continue
                reader.is_idle = True
                await reader.woken.wait()
                reader.is_idle = False
                fresh = reader.take()
                yield fresh
                if fresh:
                    reader.position = max([reader.position, *(item.position or 0 for item in fresh)])
                del fresh
        finally:
            self._unsubscribe(reader)

    async def _page(self, reader: Subscription) -> tuple[list[FeedItem], int]:
        """Read the next page of the log for a reader who is behind, and its new position."""
        if reader.is_behind:
            reader.catch_up_from(self.position)
        events, reached = await self._log.after(
            reader.position, reader.page, conversation_id=reader.conversation_id, owner=reader.owner
        )
        # What is behind `since` is, or will be, in the queue.
        page = [feed_item(event) for event in events if event.position <= reader.since]
        return page, reader.since if reached is None else min(reached, reader.since)

    def _subscribe(self, conversation_id: str | None, owner: str | None, push: Push | None) -> Subscription:
        reader = Subscription(conversation_id, owner, self.position, push=push)
        if conversation_id and conversation_id not in self._of_conversation:
            self.newcomers.add(conversation_id)
        (self._of_conversation[conversation_id] if conversation_id else self._of_all).add(reader)
        return reader

    def _unsubscribe(self, reader: Subscription) -> None:
        self._of_all.discard(reader)
        if reader.conversation_id in self._of_conversation:
            self._of_conversation[reader.conversation_id].discard(reader)
            if not self._of_conversation[reader.conversation_id]:
                del self._of_conversation[reader.conversation_id]
                self.newcomers.discard(reader.conversation_id)

    # --- delivering ----------------------------------------------------------------------------------

    def _give_all(self, items: Sequence[FeedItem], owners: Mapping[str, str]) -> None:
        """Give each reader of all conversations what they may see; whoever sees the same shares the bytes."""
        if not (items and self._of_all):
            return
        by_owner = _grouped(items, lambda item: owners.get(_conversation_of(item)))
        batches = {owner: Batch(own) for owner, own in by_owner.items()} | {None: Batch(items)}
        for reader in self._of_all:
            if batch := batches.get(reader.owner):
                reader.give(batch)

    async def _owners_of(self, events: Sequence[LoggedEvent]) -> Mapping[str, str]:
        """Return whose the events are, where a reader of all conversations may see only their own."""
        if all(reader.owner is None for reader in self._of_all):
            return {}
        if len(self._owners) > 100_000:
            self._owners.clear()
        for conversation_id in {event.conversation_id for event in events} - self._owners.keys():
            if owner := await self._log.owner_of(conversation_id):
                self._owners[conversation_id] = owner
        return self._owners


def _conversation_of(item: FeedItem) -> str:
    return str(item.body["conversation_id"])


def _grouped(
    items: Sequence[FeedItem], key: Callable[[FeedItem], str | None]
) -> Mapping[str | None, Sequence[FeedItem]]:
    """Return the items by a key, in order: a page is gone through once, however many watch."""
    groups: dict[str | None, list[FeedItem]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
