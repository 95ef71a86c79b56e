"""A reader who is behind while the store is away stays, and misses nothing."""

import asyncio
from collections.abc import Sequence
from typing import Any

from application.errors import StoreUnavailableError
from application.live import LiveFeed
from application.ports import LoggedEvent
from tests.unit.test_live_forget import Log, said


class Away(Log):
    """A log that does not answer the first time."""

    asked = 0

    async def after(self, *where: Any, **whose: Any) -> tuple[Sequence[LoggedEvent], int | None]:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailableError
        return await super().after(*where, **whose)


async def test_a_reader_who_is_behind_while_the_store_is_away_goes_on_by_itself() -> None:
    live = LiveFeed(Away(said(1, "one", "first"), said(2, "two", "second")))
    live.pass_over(2)
    seen: list[int | None] = []
    async with asyncio.timeout(10):
        async for items in live.watch(0):
            seen += [item.position for item in items]
            if len(seen) == 2:
                break
    assert seen == [1, 2]
