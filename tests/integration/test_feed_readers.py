"""Many read one feed: what they are sent is made once, and who was dropped goes on where they were."""

import asyncio
import socket
from collections import Counter
from typing import Any

import pytest

from api.sse import one_line
from tests.integration.test_feed_hints import feed, fill, ids, positions, read_until, watching
from tests.integration.test_feeds import feed as feed_after
from tests.serving import serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not


async def test_an_event_is_made_into_bytes_once_for_all_who_watch(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Counter[int]()

    def counted(body: Any) -> bytes:
        made[body.get("position", 0)] += 1
        return one_line(body)

    monkeypatch.setattr("api.feeds.one_line", counted)
    of_one = "/v1/conversations/c/feed"
    async with serving(database_url) as server:
        begun = (await server.client.say("hello", conversation_id="c"))[-1].data["last_position"]
        async with feed(server, of_one) as a, feed(server, of_one) as b, feed(server, "/v1/feed") as c:
            last = (await server.client.say("help", conversation_id="c"))[-1].data["last_position"]
            for items in (a, b, c):
                assert ids(await read_until(items, last)) == list(range(begun + 1, last + 1))
    del made[0]  # what was provisional
    assert made == Counter(range(begun + 1, last + 1))


async def read_to_the_end(sock: socket.socket) -> bytes:
    """Read what is left for a reader who was dropped."""
    sock.setblocking(False)
    text = b""
    async with asyncio.timeout(20):
        try:
            while piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
                text += piece
        except ConnectionResetError:
            return text
    return text


@pytest.mark.may_block("a reader with a small window is filled through the kernel's buffers")
async def test_a_reader_that_was_dropped_goes_on_behind_what_it_has_read_without_a_gap(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.feeds.SEND_TIMEOUT_S", 0.3)
    async with serving(database_url) as server:
        with watching(server.url) as sock:
            async with asyncio.timeout(30):
                await fill(server, 20, "word " * 30_000)
                while server.house.live.has_readers:
                    await server.client.say("word " * 30_000, conversation_id="c")
            got = await read_to_the_end(sock)
        whole = [one for one in got.split(b"\n\n")[:-1] if b"\nid: " in b"\n" + one]
        read = [int(one.partition(b"id: ")[2].split(b"\n")[0]) for one in whole]
        stored = await positions(database_url)
        assert 0 < len(read) < len(stored)
        async with feed_after(server, "/v1/feed", str(read[-1])) as items:
            rest = ids(await read_until(items, stored[-1]))
    assert read + rest == stored
