"""Notifications are hints, connections are cut, readers are slow: a feed loses and repeats nothing."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from application import live
from tests.replaying import read_log
from tests.serving import ServerProcess, Serving, SseFrame, feed_items, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

POLL_S = 0.2
CONNECT = {"application_name": "test", "autocommit": True}


async def positions(database_url: str) -> list[int]:
    return [row.position for row in await asyncio.to_thread(read_log, database_url)]


def ids(items: Iterable[SseFrame]) -> list[int]:
    return [int(item.id) for item in items if item.id]


@asynccontextmanager
async def feed(server: Serving, path: str = "/v1/feed?after=0") -> AsyncIterator[AsyncIterator[SseFrame]]:
    async with server.client.http.stream("GET", path, timeout=20) as response:
        assert response.status_code == 200, await response.aread()
        yield feed_items(response)


async def read_until(items: AsyncIterator[SseFrame], position: int) -> list[SseFrame]:
    seen: list[SseFrame] = []
    async with asyncio.timeout(30):
        async for item in items:
            seen.append(item)
            if item.id and int(item.id) >= position:
                return seen
    raise AssertionError(f"the feed ended before {position}")


# --- hints -----------------------------------------------------------------------------------------


async def hush(database_url: str) -> None:
    """Make the database's pg_notify say nothing, for every connection that is opened from now on."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT NULL::void'"
        )
        name = connection.info.dbname
        await connection.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog".encode())


async def hints_heard(database_url: str, heard: list[str], channel: str = "minutebook_log") -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"LISTEN {channel}".encode())
        async for hint in connection.notifies():
            heard += [hint.payload]


async def test_without_notifications_a_feed_delivers_within_the_poll_interval(database_url: str) -> None:
    await hush(database_url)
    heard: list[str] = []
    listening = asyncio.create_task(hints_heard(database_url, heard))
    lags = []
    async with serving(database_url) as server, feed(server) as items:
        for _ in range(10):
            committed = (await server.client.say("hello", conversation_id="c"))[-1]
            since = time.monotonic()
            await read_until(items, committed.data["last_position"])
            lags.append(time.monotonic() - since)
    listening.cancel()
    assert heard == []
    # A busy machine adds to one or the other; the poll itself decides about the middle.
    assert sorted(lags)[5] < POLL_S + 0.1
    assert max(lags) < POLL_S + 1


async def test_the_hint_is_heard_where_nothing_suppresses_it(database_url: str) -> None:
    heard: list[str] = []
    listening = asyncio.create_task(hints_heard(database_url, heard))
    async with serving(database_url) as server:
        await server.client.say("hello", conversation_id="c")
        async with asyncio.timeout(5):
            while not heard:  # noqa: ASYNC110 (what is waited for comes from the database)
                await asyncio.sleep(0.02)
    listening.cancel()


# --- the connection --------------------------------------------------------------------------------


async def kill(database_url: str, name: str) -> int:
    """Cut the connections of this name; return how many were cut."""
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = %s"
    )
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        return len(await (await connection.execute(query, (name,))).fetchall())


async def kill_tailers(database_url: str, times: int) -> int:
    """Cut the listening connections again and again; return how many were cut."""
    cut = 0
    for _ in range(times):
        cut += await kill(database_url, "minutebook tailer")
        await asyncio.sleep(0.07)
    return cut


async def talk(server: Serving, conversation_id: str, until: asyncio.Task[int]) -> None:
    while not until.done():
        await server.client.say("hello", conversation_id=conversation_id)


async def test_the_listening_connection_comes_back_by_itself_and_nothing_is_missing_or_twice(
    database_url: str,
) -> None:
    async with serving(database_url) as server, feed(server) as all_items:
        await server.client.say("hello", conversation_id="c0")
        async with feed(server, "/v1/conversations/c0/feed?after=0") as items:
            killing = asyncio.create_task(kill_tailers(database_url, times=25))
            await asyncio.gather(*(talk(server, f"c{number}", killing) for number in range(4)))
            assert await killing >= 10
            last = (await server.client.say("hello", conversation_id="c0"))[-1].data["last_position"]
            log = await asyncio.to_thread(read_log, database_url)
            assert ids(await read_until(all_items, last)) == [row.position for row in log]
            of_one = [row.position for row in log if row.conversation == "c0"]
            assert ids(await read_until(items, last)) == of_one


LONG = "word " * 60_000


# --- readers ---------------------------------------------------------------------------------------


def watching(url: str, after: int = 0) -> socket.socket:
    """Open a feed with a small window, and read nothing of it."""
    host, _, port = url.removeprefix("http://").partition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    sock.sendall(f"GET /v1/feed?after={after} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return sock


async def read_slowly_until(sock: socket.socket, position: int) -> list[int]:
    """Read a chunked answer as it comes, and return the ids in it."""
    sock.setblocking(False)
    text = b""
    async with asyncio.timeout(60):
        while f"id: {position}\n".encode() not in text:
            text += await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
    lines = text.splitlines()
    return [int(line[4:]) for line in lines if line.startswith(b"id: ")]


async def fill(server: Any, turns: int, words: str, conversation_id: str = "c") -> int:
    """Run turns with a long message each, and return the position of the last event."""
    last = 0
    for _ in range(turns):
        last = (await server.client.say(words, conversation_id=conversation_id))[-1].data["last_position"]
    return last


@pytest.mark.may_block("a reader with a small window is filled through the kernel's buffers")
async def test_a_slow_reader_gets_everything_in_order_through_pages(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.feeds.SEND_TIMEOUT_S", 100)  # slow it is, and not to be dropped
    async with serving(database_url) as server:
        with watching(server.url) as sock:
            await fill(server, 16, LONG)  # what the kernel's buffers take
            last = await fill(server, 100, "hello")
            (reader,) = server.house.live._of_all
            assert reader.is_behind, "the reader was not slow enough to prove anything"
            assert not reader.items
            got = await read_slowly_until(sock, last)
    assert got == await positions(database_url)


async def test_a_reader_that_never_reads_costs_neither_memory_nor_the_others_time(
    database_url: str, tmp_path: Path
) -> None:
    process = ServerProcess(tmp_path, database_url=database_url, demo_delay_s=0)
    await asyncio.to_thread(process.start)
    readers: list[socket.socket] = []
    try:
        async with serving(database_url) as server:  # it writes, the other one is watched
            await fill(server, 30, "word " * 6_000)
            alone = await lag(server, process.url)
            readers += [watching(process.url) for _ in range(40)]
            await fill(server, 16, LONG)  # what the kernel's buffers take
            before = psutil.Process(process.pid).memory_info().rss
            await fill(server, 170, "word " * 12_000)
            beside = await lag(server, process.url)
            grown = psutil.Process(process.pid).memory_info().rss - before
        # What 40 readers have not taken is 40 times 10 MB; what their queues may share is half of 10 MB. The
        # process grows and shrinks by some 40 MiB when it sends as much to one reader that does read.
        assert grown < 100 * 2**20, f"{grown >> 20} MiB"
        assert beside < alone + 0.3, f"{beside} s, {alone} s alone"
    finally:
        for sock in readers:
            sock.close()
        await asyncio.to_thread(process.kill)


async def lag(writer: Serving, url: str) -> float:
    """Return the shortest of five times from a commit to a feed, in seconds (a crowded machine adds)."""
    lags = []
    async with writer.client.http.stream("GET", f"{url}/v1/feed") as response:
        items = feed_items(response)
        for _ in range(5):
            committed = (await writer.client.say("hello", conversation_id="lag"))[-1]
            since = time.monotonic()
            await read_until(items, committed.data["last_position"])
            lags.append(time.monotonic() - since)
    return min(lags)


async def test_a_reader_that_takes_nothing_is_dropped(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.feeds.SEND_TIMEOUT_S", 0.3)
    async with serving(database_url) as server:
        with watching(server.url):
            async with asyncio.timeout(30):
                await fill(server, 20, "word " * 30_000)
                while server.house.live.has_readers:
                    await server.client.say("word " * 30_000, conversation_id="c")


async def test_a_feed_beats_while_nothing_happens(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.1)
    async with serving(database_url) as server, server.client.http.stream("GET", "/v1/feed") as response:
        async with asyncio.timeout(5):
            lines = response.aiter_lines()
            said = [line for line in [await anext(lines) for _ in range(6)] if line]
    assert said == [": still here"] * 3


# --- processes -------------------------------------------------------------------------------------


async def test_the_feeds_of_two_processes_show_the_same_sequence(database_url: str) -> None:
    async with (
        serving(database_url) as here,
        serving(database_url) as there,
        feed(here) as items_here,
        feed(there) as items_there,
    ):
        writers = [(server, f"c{number}") for number in range(2) for server in (here, there)]
        lasts = await asyncio.gather(
            *(fill(server, 10, "hello", f"{name}-{server is here}") for server, name in writers)
        )
        shown_here = await read_until(items_here, max(lasts))
        shown_there = await read_until(items_there, max(lasts))
    assert [(item.id, item.type, json.dumps(item.data)) for item in shown_here] == [
        (item.id, item.type, json.dumps(item.data)) for item in shown_there
    ]
    assert ids(shown_here) == await positions(database_url)
