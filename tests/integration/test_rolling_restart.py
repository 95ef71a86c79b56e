"""Two servers behind a balancer, restarted one after the other under load: nobody loses anything."""

import asyncio
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from minutebook_client import Client, Frame
from tests.balancing import balancer
from tests.integration.test_two_processes import Node, begun
from tests.integration.waiting import eventually
from tests.killing import judge_positions, judge_turns, read_turns
from tests.replaying import LogRow, read_log
from tests.serving import Client as Direct
from tests.serving import ServerProcess, SseFrame, frames_of

CHATTERS = 10
WATCHED = 4  # conversations, and a feed of everything
WORDS = ("hello", "long 30", "read a.txt", "three files", "switch to debug")

pytestmark = [
    pytest.mark.no_cover,  # the server is another process: its lines are not seen
    pytest.mark.timeout(240),
]


@dataclass
class Heard:
    """What clients were told: every turn's frames, and what each feed showed."""

    turns: dict[str, list[Frame]] = field(default_factory=dict)
    feeds: dict[str, list[SseFrame]] = field(default_factory=lambda: defaultdict(list))
    breaks: Counter[str] = field(default_factory=Counter)


async def chat(url: str, conversation_id: str, heard: Heard, stopped: asyncio.Event) -> None:
    """Say one thing after the other; the client sends again, and goes on, by itself."""
    async with Client(url) as client:
        for number in count():
            if stopped.is_set():
                return
            turn_id = str(uuid4())
            words = WORDS[number % len(WORDS)]
            said = client.say(words, conversation_id=conversation_id, turn_id=turn_id)
            heard.turns[turn_id] = [frame async for frame in said]


async def watch(url: str, path: str, heard: Heard) -> None:
    """Follow a feed for ever, as an EventSource does: from the last id, after every break."""
    seen = heard.feeds[path]
    async with httpx.AsyncClient(base_url=url, timeout=30, verify=False) as http:
        while True:
            with suppress(httpx.TransportError):
                async with aclosing(frames_after(http, path, seen)) as frames:
                    async for frame in frames:
                        if frame.id:
                            seen.append(frame)
            heard.breaks[path] += 1
            await asyncio.sleep(0.05)


async def frames_after(
    http: httpx.AsyncClient, path: str, seen: list[SseFrame]
) -> AsyncGenerator[SseFrame, None]:
    headers = {"Last-Event-ID": str(seen[-1].id) if seen else "0"}
    async with http.stream("GET", path, headers=headers) as response:
        if response.status_code == 200:
            async for frame in frames_of(response):
                yield frame


@asynccontextmanager
async def load(url: str, database_url: str) -> AsyncIterator[Heard]:
    """Let people chat and watch for the length of the block; then all finish what they were at."""
    heard, stopped = Heard(), asyncio.Event()
    conversations = [f"c{number}" for number in range(CHATTERS)]
    async with asyncio.TaskGroup() as group:
        chatting = [group.create_task(chat(url, one, heard, stopped)) for one in conversations]
        await eventually(lambda: are_there(database_url, conversations[:WATCHED]))
        paths = {"/v1/feed": "", **{f"/v1/conversations/{one}/feed": one for one in conversations[:WATCHED]}}
        watching = [group.create_task(watch(url, path, heard)) for path in paths]
        yield heard
        stopped.set()
        await asyncio.wait(chatting)
        log = await asyncio.to_thread(read_log, database_url)
        for path, conversation_id in paths.items():
            whole = [row for row in log if conversation_id in ("", row.conversation)]
            await eventually(partial(has_seen, heard.feeds[path], whole), 60)
        await asyncio.sleep(0.5)  # what comes twice comes now
        for task in watching:
            task.cancel()


async def are_there(database_url: str, conversations: Sequence[str]) -> bool:
    log = await asyncio.to_thread(read_log, database_url)
    return {row.conversation for row in log} >= set(conversations)


async def has_seen(frames: list[SseFrame], rows: list[LogRow]) -> bool:
    return bool(frames) and frames[-1].id == str(rows[-1].position)


async def restart(process: ServerProcess) -> None:
    """Restart a server as an upgrade does; what it was at ends, and what is new is sent elsewhere."""
    port = int(process.url.rpartition(":")[2])
    async with (
        httpx.AsyncClient(base_url=process.url, timeout=60, verify=False) as http,
        begun(Node(process, Direct(http)), "slow 2") as stream,
    ):
        os.kill(process.pid, signal.SIGTERM)
        await eventually(lambda: refuses(process.url))
        assert [frame async for frame in stream][-1].type == "turn.committed"
    assert await asyncio.to_thread(process.stop, 60) == 0
    await asyncio.to_thread(process.start, port, 60)


async def refuses(url: str) -> bool:
    body = {"message": {"type": "user_message", "content": "hello"}, "conversation_id": "refused"}
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
        answer = await http.post("/v1/messages/stream", json=body)
        if answer.status_code == 200:
            return False
        assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["connection"] == "close"  # the next try is a new connection, to another server
        return True


async def test_a_rolling_restart_under_load_loses_no_turn_and_no_frame(
    database_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"database_url": database_url, "demo_delay_s": 0.01, "grace_s": 30}
    one, other = ServerProcess(tmp_path, **settings), ServerProcess(tmp_path, **settings)
    try:
        await asyncio.gather(*(asyncio.to_thread(each.start, 0, 60) for each in (one, other)))
        ports = [int(each.url.rpartition(":")[2]) for each in (one, other)]
        async with balancer(ports) as balancing, load(balancing.url, database_url) as heard:
            for process in (one, other, one, other):
                before = len(heard.turns)
                await restart(process)
                assert len(heard.turns) > before, "nobody could speak meanwhile"
    finally:
        for process in (one, other):
            await asyncio.to_thread(process.kill)
    assert all(balancing.passed[port] > CHATTERS for port in ports)
    assert all(heard.breaks[path] > 1 for path in heard.feeds), "a feed met no restart"
    await asyncio.to_thread(judge, database_url, heard)


def judge(database_url: str, heard: Heard) -> None:
    """Each turn is stored once and whole, as its client was told; each feed showed all, in order, once."""
    log, turns = read_log(database_url), read_turns(database_url)
    judge_positions(log)
    by_turn: dict[str, list[LogRow]] = defaultdict(list)
    for row in log:
        by_turn[row.turn].append(row)
    judge_turns(turns, by_turn)
    assert {turn["state"] for turn in turns.values()} == {"committed"}
    assert heard.turns.keys() <= turns.keys()
    for frames in heard.turns.values():
        assert [frame.type for frame in frames].count("turn.committed") == 1
        judge_whole(frames, log)
    for path, seen in heard.feeds.items():
        conversation_id = path.split("/")[-2] if "conversations" in path else ""
        rows = [row for row in log if conversation_id in ("", row.conversation)]
        assert [(int(frame.id or 0), frame.type, frame.data["data"]) for frame in seen] == [
            (row.position, row.type, row.data) for row in rows
        ]


def judge_whole(frames: Sequence[Frame], log: Sequence[LogRow]) -> None:
    """No frame came twice or out of order, and all that is stored of the turn was told."""
    ids = [tuple(map(int, str(frame.id).split("."))) for frame in frames]
    assert ids == sorted(set(ids))
    end = frames[-1].data
    rows = log[end["first_position"] - 1 : end["last_position"]]
    told = [(frame.position, frame.type, frame.data["data"]) for frame in frames if frame.position]
    assert told == [(row.position, row.type, row.data) for row in rows]
