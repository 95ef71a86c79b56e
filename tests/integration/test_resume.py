"""Cut after every single frame, and come back: the whole sequence, in order, each frame once."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cutting import cutting_proxy
from tests.integration.streams import in_turn, steered
from tests.openai_pieces import Piece, Text
from tests.serving import ServerProcess, Serving, SseFrame, frames_of, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

TURNS = 12


def shown(frames: Sequence[SseFrame]) -> list[tuple[str | None, str, str]]:
    return [(frame.id, frame.type, json.dumps(frame.data)) for frame in frames]


async def one_frame(http: httpx.AsyncClient, url: str, cursor: str | None) -> SseFrame:
    """Read one frame that has an id, and cut the connection."""
    headers = {"Last-Event-ID": cursor} if cursor else {}
    async with http.stream("GET", url, headers=headers, timeout=20) as response:
        assert response.status_code == 200, await response.aread()
        async for frame in frames_of(response):
            if frame.id:
                return frame
    raise AssertionError("the stream ended without another frame")


async def long_conversation(server: Serving) -> int:
    last = 0
    for number in range(TURNS):
        words = ("hello", "read a.txt", "plan a house", "switch to debug")[number % 4]
        last = (await server.client.say(words, conversation_id="c"))[-1].data["last_position"]
    return last


async def whole_feed(server: Serving, last: int) -> list[SseFrame]:
    frames = []
    async with server.client.http.stream("GET", "/v1/conversations/c/feed?after=0", timeout=20) as response:
        async for frame in frames_of(response):
            frames.append(frame)
            if frame.id == str(last):
                break
    return frames


async def test_a_feed_cut_after_every_frame_is_whole_on_either_process(database_url: str) -> None:
    async with serving(database_url) as here, serving(database_url) as there:
        last = await long_conversation(here)
        whole = await whole_feed(here, last)
        assert len(whole) > 3 * TURNS
        frames: list[SseFrame] = []
        while not frames or frames[-1].id != str(last):
            server = (here, there)[len(frames) % 2]
            cursor = frames[-1].id if frames else "0"
            frames.append(await one_frame(server.client.http, "/v1/conversations/c/feed", cursor))
    assert shown(frames) == shown(whole)


class PacedModel:
    """A model that waits for a reader: a few words are said and not yet read, and the end comes after all."""

    WORDS = 60
    AHEAD = 6

    def __init__(self) -> None:
        self._unread = asyncio.Semaphore(self.AHEAD)

    async def pieces(self) -> AsyncIterator[Piece]:
        for number in range(self.WORDS):
            await self._unread.acquire()
            yield Text(f"word{number} ")
        for _ in range(self.AHEAD):
            await self._unread.acquire()

    def was_read(self, frame: SseFrame) -> None:
        words = frame.data["text"].count(" ") if frame.type == "turn.delta" else 0
        for _ in range(words):
            self._unread.release()


async def test_a_running_turn_cut_after_every_frame_is_whole_up_to_its_end(database_url: str) -> None:
    model = PacedModel()
    async with steered(database_url, in_turn(model.pieces())) as (server, _):
        said = asyncio.create_task(server.client.say("hello", conversation_id="c", turn_id="t"))
        frames = await read_cut(server.client.http, [server.url], "t", model.was_read)
        whole = await said
    assert [frame.type for frame in whole].count("turn.delta") == model.WORDS
    assert shown(frames) == shown(whole)


async def read_cut(
    http: httpx.AsyncClient, urls: Sequence[str], turn_id: str, was_read: Callable[[SseFrame], None]
) -> list[SseFrame]:
    """Read a turn's stream, one frame a connection, from these servers in turn."""
    frames: list[SseFrame] = []
    while not frames or not frames[-1].is_final:
        url = f"{urls[len(frames) % len(urls)]}/v1/turns/{turn_id}/stream"
        try:
            frames.append(await one_frame(http, url, frames[-1].id if frames else None))
        except AssertionError:
            if frames:
                raise
            await asyncio.sleep(0.01)  # it has not been accepted yet
        else:
            was_read(frames[-1])
    return frames


async def test_a_running_turn_is_followed_frame_by_frame_from_two_processes(database_url: str) -> None:
    model = PacedModel()
    async with serving(database_url) as there, steered(database_url, in_turn(model.pieces())) as (here, _):
        said = asyncio.create_task(here.client.say("hello", conversation_id="c", turn_id="t"))
        frames = await read_cut(here.client.http, [there.url, here.url], "t", model.was_read)
        whole = await said
    assert [frame.type for frame in whole].count("turn.delta") == model.WORDS
    assert shown(frames) == shown(whole)


async def test_a_turn_read_again_after_its_commit_is_the_same_from_every_frame(database_url: str) -> None:
    async with serving(database_url) as here, serving(database_url) as there:
        whole = await here.client.say("long 20", conversation_id="c", turn_id="t")
        stored = [frame for frame in whole if "position" in frame.data or frame.is_final]
        for frame in whole[:-1]:
            rest = [one for one in stored if one.data["seq"] > frame.data["seq"]]
            for server in (here, there):
                assert shown(await server.client.read_turn("t", frame.id)) == shown(rest)


async def test_a_turn_is_whole_after_a_restart_whatever_frame_it_was_cut_at(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server:
        whole = await server.client.say("long 20", conversation_id="c", turn_id="t")
    stored = [frame for frame in whole if "position" in frame.data or frame.is_final]
    process = ServerProcess(tmp_path, database_url=database_url)
    await asyncio.to_thread(process.start)
    try:
        async with httpx.AsyncClient(base_url=process.url, verify=False) as http:
            cut = [
                await one_frame(http, "/v1/turns/t/stream", frame.id)
                for frame in whole[-len(stored) - 1 : -1]
            ]
    finally:
        await asyncio.to_thread(process.kill)
    assert shown(cut) == shown(stored)


# --- the client from npm ---------------------------------------------------------------------------

READER = """
import { EventSource } from "eventsource";
const [url, last] = process.argv.slice(2);
const seen = [];
const source = new EventSource(url);
const take = event => {
  if (!event.lastEventId || !event.data) return;
  seen.push([event.lastEventId, event.type, event.data]);
  if (event.lastEventId === last) { source.close(); console.log(JSON.stringify(seen)); process.exit(0); }
};
for (const type of TYPES) source.addEventListener(type, take);
"""


@pytest.fixture(scope="session")
def npm_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the `eventsource` package."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0", "eventsource@4"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm could not install eventsource: {error}")
    yield folder
    shutil.rmtree(folder)


async def test_the_eventsource_of_npm_cut_after_every_frame_ends_with_the_whole_feed(
    database_url: str, npm_client: Path
) -> None:
    async with serving(database_url) as server:
        last = await long_conversation(server)
        whole = await whole_feed(server, last)
        async with cutting_proxy(server.url, frames=1, retry_ms=5) as proxy:
            seen = await run_node(npm_client, whole, f"{proxy.url}/v1/conversations/c/feed?after=0", last)
        assert proxy.cuts >= len(whole) - 1
    assert seen == [[frame.id, frame.type, frame.data] for frame in whole]


async def run_node(folder: Path, whole: Sequence[SseFrame], url: str, last: int) -> list[list[Any]]:
    types = json.dumps(sorted({frame.type for frame in whole}))
    script = folder / "reader.js"
    script.write_text(READER.replace("TYPES", types))
    node = await asyncio.create_subprocess_exec(
        "node", script, url, str(last), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await node.communicate()
    finally:
        if node.returncode is None:
            node.kill()
    return [[id_, type_, json.loads(data)] for id_, type_, data in json.loads(out)]
