"""The EventSource of a real browser, cut after every frame: it comes back by itself and misses nothing."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tests.browser.chromium import Browser, Page
from tests.cutting import cutting_proxy
from tests.integration.test_resume import long_conversation, whole_feed
from tests.integration.waiting import eventually
from tests.serving import Serving, SseFrame, serving

# Nothing but the browser's own way to come back: no cursor is kept or sent by the page.
WATCH = """
window.seen = [];
window.source = new EventSource(URL_);
const take = (event) => {
  if (!event.data) return;
  window.seen.push([event.lastEventId, event.type, event.data]);
  if (event.lastEventId === LAST || event.type === "turn.committed") window.source.close();
};
for (const type of TYPES) window.source.addEventListener(type, take);
"""
EVERY_TYPE = "turn.started turn.delta turn.status turn.committed turn.failed"
SEEN = "window.source.readyState === 2 && window.seen"

Seen = list[tuple[str, str, Any]]


async def opened(browser: Browser, url: str) -> Page:
    """Open a page of this address, which may then watch what is there."""
    page = await asyncio.to_thread(browser.page)
    await asyncio.to_thread(page.go, f"{url}/health/live")
    return page


async def watch(page: Page, path: str, types: set[str], last: str) -> None:
    script = WATCH.replace("URL_", json.dumps(path)).replace("LAST", json.dumps(last))
    script = script.replace("TYPES", json.dumps(sorted(types)))
    await asyncio.to_thread(page.run, f"(() => {{{script}}})()")


async def seen_by(page: Page) -> Seen:
    """Wait until the page has closed its source and return what it saw."""
    seen = await asyncio.to_thread(page.wait, SEEN, 60)
    return [(id_, type_, json.loads(data)) for id_, type_, data in seen]


def as_seen(frames: Sequence[SseFrame]) -> Seen:
    return [(str(frame.id), frame.type, frame.data) for frame in frames]


async def test_a_feed_cut_after_every_frame_is_whole_in_a_browser(
    database_url: str, browser: Browser
) -> None:
    async with serving(database_url) as server:
        last = await long_conversation(server)
        whole = await whole_feed(server, last)
        async with cutting_proxy(server.url, frames=1, retry_ms=5) as proxy:
            page = await opened(browser, proxy.url)
            types = {frame.type for frame in whole}
            await watch(page, "/v1/conversations/c/feed?after=0", types, str(last))
            seen = await seen_by(page)
        assert proxy.cuts >= len(whole) - 1
    assert seen == as_seen(whole)


async def said_until(server: Serving, page: Page, deltas: int) -> list[SseFrame]:
    """Watch a turn in the page, stop it when the page has seen so many words, and return all its frames."""
    speaking = asyncio.create_task(server.client.say("long 5000", conversation_id="c", turn_id="t"))
    await eventually(lambda: is_accepted(server))
    types = {*EVERY_TYPE.split(), *(await schema_types(server))}
    await watch(page, "/v1/turns/t/stream", types, "none")
    counted = f"window.seen.filter(([, type]) => type === 'turn.delta').length >= {deltas}"
    await asyncio.to_thread(page.wait, counted, 60)
    await server.client.http.post("/v1/turns/t/cancel")
    return await speaking


async def is_accepted(server: Serving) -> bool:
    return (await server.client.http.get("/v1/turns/t")).status_code == 200


async def schema_types(server: Serving) -> set[str]:
    """Return the types of all events, as the server publishes them."""
    published = (await server.client.http.get("/v1/schema")).json()
    return set(published["events"])


async def test_a_running_turn_cut_after_every_frame_is_whole_in_a_browser(
    database_url: str, browser: Browser
) -> None:
    async with serving(database_url, demo_delay_s=0.02) as server:
        async with cutting_proxy(server.url, frames=1, retry_ms=5) as proxy:
            page = await opened(browser, proxy.url)
            whole = await said_until(server, page, deltas=30)
            seen = await seen_by(page)
        assert proxy.cuts > 30
    ids = {id_ for id_, _, _ in seen}
    kept = [frame for frame in whole if frame.id in ids]
    assert seen == as_seen(kept), "out of order, or twice, or not what was said"
    # What has no position may vanish where the commit overtakes it; nothing else may.
    stored = [frame for frame in whole if "position" in frame.data or frame.is_final]
    assert as_seen(kept)[-len(stored) :] == as_seen(stored)


async def test_a_stored_turn_cut_after_every_frame_is_whole_in_a_browser(
    database_url: str, browser: Browser
) -> None:
    async with serving(database_url) as server:
        whole = await server.client.say("read a.txt", conversation_id="c", turn_id="t")
        stored = [frame for frame in whole if "position" in frame.data or frame.is_final]
        assert len(stored) > 3
        async with cutting_proxy(server.url, frames=1, retry_ms=5) as proxy:
            page = await opened(browser, proxy.url)
            await watch(page, "/v1/turns/t/stream", {frame.type for frame in whole}, "none")
            seen = await seen_by(page)
        assert proxy.cuts >= len(stored) - 1
    assert seen == as_seen(stored)
