"""Everybody who watches sees the same thing, as it happens, from any position, in any process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.integration.streams import until
from tests.serving import Serving, SseFrame, feed_items, serving


@asynccontextmanager
async def feed(
    server: Serving, path: str, cursor: str | None = None
) -> AsyncIterator[AsyncIterator[SseFrame]]:
    headers = {"Last-Event-ID": cursor} if cursor else {}
    async with server.client.http.stream("GET", path, headers=headers, timeout=20) as response:
        assert response.status_code == 200, await response.aread()
        yield feed_items(response)


async def take(items: AsyncIterator[SseFrame], last: str) -> list[SseFrame]:
    """Read up to and with the first item of this type."""
    seen: list[SseFrame] = []
    async with asyncio.timeout(15):
        async for item in items:
            seen.append(item)
            if item.type == last:
                return seen
    raise AssertionError(f"the feed ended before {last}")


async def test_a_feed_from_the_start_says_what_the_log_says_and_goes_on_live(database_url: str) -> None:
    async with serving(database_url) as server:
        first = await server.client.say("help", conversation_id="c")
        async with feed(server, "/v1/conversations/c/feed", "0") as items:
            seen = await take(items, "conversation.assistant_message_sent")
            second = asyncio.create_task(server.client.say("help again", conversation_id="c"))
            seen += await take(items, "conversation.assistant_message_sent")
            committed = [frame for frame in [*first, *await second] if "position" in frame.data]
    stored = [item for item in seen if item.id is not None]
    assert [item.id for item in stored] == [str(frame.data["position"]) for frame in committed]
    assert [item.data["data"] for item in stored] == [frame.data["data"] for frame in committed]
    provisional = [item.type for item in seen if item.id is None]
    assert "turn.started" in provisional
    assert "turn.delta" in provisional


async def test_a_feed_goes_on_behind_any_position_without_a_gap_or_a_repeat(database_url: str) -> None:
    async with serving(database_url) as server:
        ends = [(await server.client.say(f"message {n}", conversation_id="c"))[-1] for n in range(5)]
        last = str(ends[-1].data["last_position"])
        async with feed(server, "/v1/feed", "0") as items:
            whole = await _up_to(last, items)
        assert [item.id for item in whole] == [str(number + 1) for number in range(int(last))]
        for cut, item in enumerate(whole[:-1]):
            async with feed(server, "/v1/feed", item.id) as items:
                assert await _up_to(last, items) == whole[cut + 1 :]


async def test_a_substitute_of_eventsource_goes_on_where_it_was_though_its_address_says_after(
    database_url: str,
) -> None:
    async with serving(database_url) as server:
        end = (await server.client.say("hello", conversation_id="c", turn_id="t"))[-1]
        for path in ("/v1/feed", "/v1/conversations/c/feed"):
            async with feed(server, f"{path}?after=0&lastEventId=2") as items:
                assert (await anext(items)).id == "3"
            async with feed(server, f"{path}?after=0&lastEventId=2", "3") as items:  # a browser knows better
                assert (await anext(items)).id == "4"
        seen = f"1.{end.data['seq'] - 1}"
        rest = await server.client.http.get(
            "/v1/turns/t/stream", params={"lastEventId": seen, "after": "1.1"}
        )
        assert rest.text.startswith(f"id: {end.id}\n")


async def _up_to(last: str, items: AsyncIterator[SseFrame]) -> list[SseFrame]:
    """Read up to the item with this id."""
    seen: list[SseFrame] = []
    async with asyncio.timeout(30):
        while not seen or seen[-1].id != last:
            seen.append(await anext(items))
    return seen


async def _first(number: int, stream: httpx.Response) -> list[SseFrame]:
    """Read so many items of a feed."""
    items = feed_items(stream)
    async with asyncio.timeout(30):
        return [await anext(items) for _ in range(number)]


async def test_a_turn_of_one_process_is_watched_from_another_with_its_deltas(database_url: str) -> None:
    async with serving(database_url, demo_delay_s=0.02) as here, serving(database_url) as there:
        said = asyncio.create_task(here.client.say("long 60", conversation_id="c", turn_id="t"))
        await until(lambda: here.house.running.get("t"))
        mirrored = await there.client.read_turn("t")
        own = await said
    provisional = [frame for frame in mirrored if "position" not in frame.data and not frame.is_final]
    assert [frame.type for frame in provisional].count("turn.delta") > 5
    # The commit may overtake the last words; what is stored and how it ended are never missing.
    assert provisional == own[: len(provisional)]
    assert mirrored[len(provisional) :] == [f for f in own if "position" in f.data or f.is_final]


async def test_a_feed_in_another_process_shows_what_is_being_said(database_url: str) -> None:
    async with serving(database_url, demo_delay_s=0.02) as here, serving(database_url) as there:
        await here.client.say("help", conversation_id="c")
        async with feed(there, "/v1/conversations/c/feed") as items:
            said = asyncio.create_task(here.client.say("long 60", conversation_id="c"))
            seen = await take(items, "conversation.assistant_message_sent")
            await said
    deltas = "".join(item.data["text"] for item in seen if item.type == "turn.delta")
    assert deltas, "nothing was shared while it was being said"
    assert seen[-1].data["data"]["content"].startswith(deltas)


async def test_somebody_elses_conversation_has_no_feed(database_url: str) -> None:
    async with serving(database_url, identity_header="X-Subject") as server:
        ann, bob = server.as_subject("ann"), server.as_subject("bob")
        await server.client.say("help", conversation_id="c", headers=ann)
        response = await server.client.http.get("/v1/conversations/c/feed", headers=bob)
        assert (response.status_code, response.json()["code"]) == (404, "conversation_not_found")
        async with server.client.http.stream("GET", "/v1/feed?after=0", headers=bob) as stream:
            await server.client.say("help", conversation_id="d", headers=bob)
            assert (await _first(4, stream))[0].data["conversation_id"] == "d"
        async with server.client.http.stream("GET", "/v1/feed?after=0", headers=ann) as stream:
            assert {item.data["conversation_id"] for item in await _first(4, stream)} == {"c"}


async def test_a_bad_cursor_is_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        for cursor in ("1.2", "-1", "1"):  # the log is empty: there is no position 1 to come from
            response: httpx.Response = await server.client.http.get("/v1/feed", params={"after": cursor})
            assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


async def test_an_id_that_no_conversation_can_have_has_no_feed(database_url: str) -> None:
    async with serving(database_url) as server:
        response = await server.client.http.get("/v1/conversations/a%00b/feed")
        assert (response.status_code, response.json()["code"]) == (404, "conversation_not_found")
