"""What waits for a reader when it is erased is not given any more: the log says what is left of it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from application.live import LiveFeed
from application.ports import LoggedEvent
from tests.unit.test_live_push import Socket, batch, queued, reader


def said(position: int, conversation: str, text: str) -> LoggedEvent:
    about = (position, conversation, position, "conversation.renamed", conversation, "turn", "user:ada")
    return LoggedEvent(*about, datetime.now(UTC), {"title": text})


class Log:
    """A log in memory."""

    def __init__(self, *events: LoggedEvent) -> None:
        self.events = list(events)

    async def after(
        self, position: int, limit: int, *, conversation_id: str | None = None, owner: str | None = None
    ) -> tuple[Sequence[LoggedEvent], int | None]:
        found = [one for one in self.events if one.position > position]
        return [one for one in found if conversation_id in (None, one.conversation_id)][:limit], None

    async def head(self) -> int:
        return len(self.events)

    async def owner_of(self, conversation_id: str) -> str | None:
        return "ada"


async def test_what_waits_for_a_reader_is_read_anew_when_some_of_it_was_erased() -> None:
    log = Log(said(1, "gone", "secret"), said(2, "kept", "other"))
    live = LiveFeed(log)
    watching = live.watch(0)
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    await live.publish(log.events)  # the reader has not been woken yet
    log.events[0] = said(1, "gone", "erased")
    live.forget("gone")
    given = [*await first, *await anext(watching)]
    assert [(item.position, item.body["data"]) for item in given] == [
        (1, {"title": "erased"}),
        (2, {"title": "other"}),
    ]


async def test_what_waits_for_a_reader_stays_when_something_else_was_erased() -> None:
    log = Log(said(1, "kept", "other"))
    live = LiveFeed(log)
    watching = live.watch(0, conversation_id="kept")
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    await live.publish(log.events)
    live.forget("gone")
    assert [item.position for item in await first] == [1]


def test_a_reader_who_has_fallen_behind_is_sent_nothing_past_what_they_have_to_read_first() -> None:
    socket = Socket()
    one = reader(socket)
    one.fall_behind()
    one.give(batch(1))
    assert (socket.taken, one.position, queued(one)) == ([], 0, [])
