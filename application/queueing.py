"""The line in front of a busy conversation: whoever came first goes first."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Place:
    """One place in a conversation's line; it is first when all before it have left."""

    def __init__(self) -> None:
        self.is_first = False
        self._woken = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait until something changed for this place, or for that long."""
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            return
        self._woken.clear()

    def wake(self) -> None:
        """Let the waiter look again."""
        self._woken.set()


class Queues:
    """The lines of all conversations of this process."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Place]] = {}

    @asynccontextmanager
    async def place(self, conversation_id: str, patience_s: float) -> AsyncIterator[Place]:
        """Stand in line until first, or for `patience_s` seconds; leave it at the end."""
        line = self._lines.setdefault(conversation_id, deque())
        place = Place()
        line.append(place)
        try:
            line[0].is_first = True
            if not place.is_first:
                await place.wait(patience_s)
            yield place
        finally:
            line.remove(place)
            self._next(conversation_id, line)

    def is_waited_in(self, conversation_id: str) -> bool:
        """Whether anybody stands in line there."""
        return conversation_id in self._lines

    def wake(self, conversation_id: str) -> None:
        """Let the first in line look whether the conversation is free."""
        if line := self._lines.get(conversation_id):
            line[0].wake()

    def _next(self, conversation_id: str, line: deque[Place]) -> None:
        if not line:
            self._lines.pop(conversation_id, None)
        elif not line[0].is_first:
            line[0].is_first = True
            line[0].wake()
