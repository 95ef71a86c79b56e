"""A server restarted in the middle of a turn, its reader cut after every frame: the end is what is stored."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.integration.test_resume import one_frame, shown
from tests.integration.waiting import eventually
from tests.replaying import read_log
from tests.serving import Client, ServerProcess, SseFrame, frames_of

pytestmark = pytest.mark.no_cover  # the server is another process: its lines are not seen

FEW = 15  # provisional frames, each on a connection of its own
ENDLESS = "long 5000"  # until it is cancelled


class CutReader:
    """Reads a turn, one frame a connection, from these servers in turn, past those that are away."""

    def __init__(self, http: httpx.AsyncClient, urls: Sequence[str], turn_id: str) -> None:
        self.frames: list[SseFrame] = []
        self._http, self._path = http, f"/v1/turns/{turn_id}/stream"
        self._urls = cycle(urls)

    async def until(self, true: Callable[[SseFrame], bool]) -> None:
        """Read until a frame is like this."""
        async with asyncio.timeout(60):
            while not (await self._next() and true(self.frames[-1])):
                pass

    async def more_deltas(self, count: int = FEW) -> None:
        """Read so many more words."""
        wanted = self._deltas() + count
        await self.until(lambda _: self._deltas() >= wanted)

    def _deltas(self) -> int:
        return [frame.type for frame in self.frames].count("turn.delta")

    async def _next(self) -> bool:
        try:
            cursor = self.frames[-1].id if self.frames else None
            self.frames.append(await one_frame(self._http, next(self._urls) + self._path, cursor))
            return True
        except httpx.TransportError:
            await asyncio.sleep(0.02)  # it is away
            return False


@asynccontextmanager
async def two_servers(database_url: str, folder: Path) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    settings = {"database_url": database_url, "demo_delay_s": 0.02, "grace_s": 60, "lease_s": 1}
    one, other = ServerProcess(folder, **settings), ServerProcess(folder, **settings)
    try:
        await asyncio.gather(*(asyncio.to_thread(each.start, 0, 60) for each in (one, other)))
        yield one, other
    finally:
        for process in (one, other):
            await asyncio.to_thread(process.kill)


async def cancel(http: httpx.AsyncClient, url: str) -> None:
    assert (await http.post(f"{url}/v1/turns/t/cancel")).json()["state"] == "committed"


def port_of(process: ServerProcess) -> int:
    return int(process.url.rpartition(":")[2])


async def judge(
    database_url: str, process: ServerProcess, read: list[SseFrame], told: list[SseFrame]
) -> None:
    """What was read cut by cut is what was told in one piece, and what is stored."""
    ids = {frame.id for frame in read}
    kept = [frame for frame in told if frame.id in ids]
    assert shown(read) == shown(kept), "out of order, or twice, or not what was said"
    stored = [frame for frame in told if "position" in frame.data or frame.is_final]
    assert shown(read[-len(stored) :]) == shown(stored)
    async with httpx.AsyncClient(base_url=process.url, timeout=60, verify=False) as http:
        assert shown(await Client(http).read_turn("t")) == shown(stored)
    log = await asyncio.to_thread(read_log, database_url)
    assert [(row.position, row.type, row.data) for row in log] == [
        (frame.data["position"], frame.type, frame.data["data"]) for frame in stored[:-1]
    ]


@pytest.mark.parametrize("also", ["the other", "itself alone"])
async def test_a_turn_is_whole_although_its_server_is_restarted_in_order_meanwhile(
    database_url: str, tmp_path: Path, also: str
) -> None:
    async with (
        two_servers(database_url, tmp_path) as (one, other),
        httpx.AsyncClient(timeout=60, verify=False) as http,
    ):
        client = Client(httpx.AsyncClient(base_url=one.url, timeout=60, verify=False))
        async with client.http:
            saying = asyncio.create_task(client.say(ENDLESS, conversation_id="c", turn_id="t"))
            await eventually(lambda: is_accepted(http, one.url))
            reader = CutReader(http, [one.url, other.url] if also == "the other" else [one.url], "t")
            await reader.more_deltas()
            os.kill(one.pid, signal.SIGTERM)
            await eventually(lambda: is_closing(http, one.url))
            await reader.more_deltas()  # a turn in its grace is read as ever
            await cancel(http, other.url)
            if also == "the other":  # alone it may be gone before it has said another frame
                await reader.until(lambda frame: "position" in frame.data)
            told = await saying
        assert await asyncio.to_thread(one.stop, 90) == 0
        coming = asyncio.create_task(asyncio.to_thread(one.start, port_of(one), 60))
        await reader.until(lambda frame: frame.is_final)  # while it is away, and when it is back
        await coming
        await judge(database_url, one, reader.frames, told)


async def is_accepted(http: httpx.AsyncClient, url: str) -> bool:
    return (await http.get(f"{url}/v1/turns/t")).status_code == 200


async def is_closing(http: httpx.AsyncClient, url: str) -> bool:
    return bool((await http.get(f"{url}/health/ready")).json()["server"] == "shutting_down")


@pytest.mark.parametrize("retried", ["when the reader knows", "before the reader is back"])
async def test_a_turn_is_whole_although_its_server_is_killed_meanwhile(
    database_url: str, tmp_path: Path, retried: str
) -> None:
    async with (
        two_servers(database_url, tmp_path) as (one, other),
        httpx.AsyncClient(timeout=60, verify=False) as http,
    ):
        saying = asyncio.create_task(first_attempt(http, one.url))
        await eventually(lambda: is_accepted(http, other.url))
        reader = CutReader(http, [one.url, other.url], "t")
        await reader.more_deltas()
        await asyncio.to_thread(one.kill)
        await saying
        coming = asyncio.create_task(asyncio.to_thread(one.start, port_of(one), 60))
        if retried == "when the reader knows":
            await reader.until(lambda frame: frame.is_final)
            assert reader.frames[-1].data["code"] == "turn_abandoned"
        await eventually(lambda: is_abandoned(http, other.url))
        again = asyncio.create_task(second_attempt(http, other.url))
        await eventually(lambda: is_running(http, other.url))
        await reader.more_deltas()
        await coming
        await cancel(http, one.url)
        await reader.until(lambda frame: frame.is_final)
        read = [frame for frame in reader.frames if str(frame.id).startswith("2.")]
        assert reader.frames[-len(read) :] == read, "something of the first attempt came after the second"
        await judge(database_url, one, read, await again)


async def first_attempt(http: httpx.AsyncClient, url: str) -> None:
    message = {"type": "user_message", "content": ENDLESS}
    body = {"conversation_id": "c", "turn_id": "t", "message": message}
    with pytest.raises(httpx.TransportError):
        await http.post(f"{url}/v1/messages/stream", json=body)


async def second_attempt(http: httpx.AsyncClient, url: str) -> list[SseFrame]:
    async with http.stream("POST", f"{url}/v1/turns/t/retry") as response:
        assert response.status_code == 200, await response.aread()
        return [frame async for frame in frames_of(response)]


async def is_abandoned(http: httpx.AsyncClient, url: str) -> bool:
    return bool((await http.get(f"{url}/v1/turns/t")).json()["state"] == "abandoned")


async def is_running(http: httpx.AsyncClient, url: str) -> bool:
    return bool((await http.get(f"{url}/v1/turns/t")).json()["state"] == "running")
