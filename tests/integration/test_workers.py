"""`serve --workers 2`: two processes behind one port, as good as one, which come and go together."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest

from tests.integration.test_two_processes import Node, begun, hearing
from tests.integration.waiting import eventually
from tests.replaying import committed_part, read_log
from tests.serving import Client, ServerProcess, SseFrame

pytestmark = pytest.mark.no_cover  # the server is another process: its lines are not seen

LEASE_S = 1.0
ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1)


@dataclass
class Crew:
    """A parent with two workers."""

    process: ServerProcess
    stack: AsyncExitStack

    def workers(self) -> list[int]:
        """Return the process ids of the workers that run now."""
        return [child.pid for child in psutil.Process(self.process.pid).children() if is_alive(child.pid)]

    async def through(self, pid: int) -> Node:
        """Return a client whose one connection was accepted by this worker."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            http = httpx.AsyncClient(
                base_url=self.process.url, timeout=30, limits=ONE_CONNECTION, verify=False
            )
            if await worker_behind(http) == pid:
                self.stack.push_async_callback(http.aclose)
                return Node(self.process, Client(http))
            await http.aclose()
        raise AssertionError(f"worker {pid} accepts nothing")


async def worker_behind(http: httpx.AsyncClient) -> int:
    return int((await http.get("/health/live")).json()["node"].partition(":")[0])


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def holds(true: Callable[[], bool], seconds: float = 30.0) -> None:
    async def ask() -> bool:
        return await asyncio.to_thread(true)

    await eventually(ask, seconds)


@asynccontextmanager
async def crew(folder: Path, **settings: object) -> AsyncIterator[Crew]:
    given = {"workers": 2, "demo_delay_s": 0.02, "lease_s": LEASE_S, **settings}
    process = ServerProcess(folder, **given)
    await asyncio.to_thread(process.start, 0, 60.0)
    try:
        async with AsyncExitStack() as stack:
            yield Crew(process, stack)
    finally:
        if is_alive(process.pid):
            await asyncio.to_thread(process.kill)


async def test_a_turn_in_one_worker_is_followed_attached_to_and_cancelled_through_the_other(
    database_url: str, tmp_path: Path
) -> None:
    async with crew(tmp_path, database_url=database_url) as team:
        first, second = team.workers()
        here, following, attached, there = [
            await team.through(pid) for pid in (first, second, second, second)
        ]
        turn_id = str(uuid4())
        async with (
            begun(here, "slow 60", turn_id=turn_id, conversation_id="c") as stream,
            hearing(following, "/v1/conversations/c/feed") as (said, more),
            hearing(attached, f"/v1/turns/{turn_id}/stream") as (seen, rest),
        ):
            assert (await there.cancel(turn_id))["state"] == "committed"
            frames = await frames_in(stream)
            seen.extend(await frames_in(rest))
            while said[-1].type != "conversation.turn_cancelled":
                said.append(await anext(more))
    provisional = [frame for frame in seen if frame.type in ("turn.started", "turn.delta")]
    assert [frame.data["seq"] for frame in provisional] == list(range(1, len(provisional) + 1))
    assert committed_part(seen) == committed_part(frames)
    assert "turn.delta" in [frame.type for frame in said]
    positions = [frame.data["position"] for frame in frames if "position" in frame.data]
    assert [frame.data["position"] for frame in said if frame.id] == positions


async def test_a_killed_worker_is_replaced_and_its_turn_can_be_retried(
    database_url: str, tmp_path: Path
) -> None:
    async with crew(tmp_path, database_url=database_url) as team:
        doomed, survivor = team.workers()
        here, there = await team.through(doomed), await team.through(survivor)
        turn_id = str(uuid4())
        async with begun(here, "slow 2", turn_id=turn_id) as stream:
            os.kill(doomed, signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await frames_in(stream)
        await eventually(lambda: _is_abandoned(there, turn_id))
        assert (await there.retry(turn_id))[-1].type == "turn.committed"
        await holds(lambda: len(team.workers()) == 2)
        (new,) = set(team.workers()) - {survivor}
        again = await team.through(new)
        assert (await again.status(turn_id))["state"] == "committed"
        assert '"event": "worker_ended"' in team.process.log.read_text()
        assert await asyncio.to_thread(team.process.stop) == 0
    assert not is_alive(new)
    assert not is_alive(survivor)


async def frames_in(stream: AsyncIterator[SseFrame]) -> list[SseFrame]:
    return [frame async for frame in stream]


async def _is_abandoned(node: Node, turn_id: str) -> bool:
    return bool((await node.status(turn_id))["state"] == "abandoned")


async def test_a_parent_that_is_killed_leaves_nothing_behind(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = server_folder / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    async with crew(server_folder, data=server_folder / "data") as team:
        workers = team.workers()
        postgres = await asyncio.to_thread(postgres_of, server_folder)
        assert await asyncio.to_thread(left_in, temporary)  # what the workers count
        async with begun(await team.through(workers[0]), "slow 60"):
            await asyncio.to_thread(team.process.kill)
            await holds(lambda: not any(map(is_alive, [*workers, postgres])))
        assert await asyncio.to_thread(left_in, temporary) == []
        port = int(team.process.url.rpartition(":")[2])
        await asyncio.to_thread(team.process.start, port, 60.0)
        assert await asyncio.to_thread(team.process.stop) == 0
    assert await asyncio.to_thread(left_in, temporary) == []


def postgres_of(folder: Path) -> int:
    return int(next(folder.rglob("postmaster.pid")).read_text().splitlines()[0])


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("whom", ["the terminal's group", "every process", "the parent"])
async def test_a_signal_ends_all_workers_once_their_turns_have_ended(
    database_url: str, tmp_path: Path, whom: str
) -> None:
    async with crew(tmp_path, database_url=database_url, grace_s=30) as team:
        workers = team.workers()
        nodes = [await team.through(pid) for pid in workers]
        async with begun(nodes[0], "slow 2") as one, begun(nodes[1], "slow 2") as other:
            if whom == "the terminal's group":
                os.killpg(team.process.pid, signal.SIGINT)
            else:
                for pid in [*workers, team.process.pid] if whom == "every process" else [team.process.pid]:
                    os.kill(pid, signal.SIGTERM)
            for stream in (one, other):
                assert (await frames_in(stream))[-1].type == "turn.committed"
        await holds(lambda: not is_alive(team.process.pid))
        assert await asyncio.to_thread(team.process.stop) == 0
    assert not any(map(is_alive, workers))


async def test_a_second_signal_waits_for_no_turn(database_url: str, tmp_path: Path) -> None:
    async with crew(tmp_path, database_url=database_url, grace_s=60) as team:
        workers = team.workers()
        async with begun(await team.through(workers[0]), "slow 60", turn_id="t") as stream:
            os.kill(team.process.pid, signal.SIGTERM)
            await holds(lambda: not is_alive(workers[1]))  # it has nothing to wait for
            assert is_alive(workers[0])
            os.kill(team.process.pid, signal.SIGTERM)
            end = (await frames_in(stream))[-1]
        assert (end.type, end.data["code"]) == ("turn.failed", "turn_abandoned")
        assert await asyncio.to_thread(team.process.stop) == 0
    assert await asyncio.to_thread(read_log, database_url) == []


async def test_each_worker_answers_with_the_metrics_of_all(database_url: str, tmp_path: Path) -> None:
    async with crew(tmp_path, database_url=database_url) as team:
        nodes = [await team.through(pid) for pid in team.workers()]
        for node in nodes:
            await node.client.say("hello")
        ended = 'turns_ended_total{kind="user_message",outcome="committed"}'
        for node in nodes:
            await eventually(partial(_shows, node, f"{ended} 2.0"))
        watcher = await team.through(team.workers()[0])
        async with begun(watcher, "slow 60"):
            await eventually(lambda: _shows(nodes[1], "turns_running 1.0"))
            os.kill(await worker_behind(nodes[0].client.http), signal.SIGKILL)
            await eventually(lambda: _shows(nodes[1], "turns_running 0.0"))
        assert await _shows(nodes[1], f"{ended} 2.0"), "a counter went back when its worker died"


async def _shows(node: Node, line: str) -> bool:
    return line in (await node.client.http.get("/metrics")).text.splitlines()


async def test_workers_share_the_embedded_database_which_the_last_one_stops(server_folder: Path) -> None:
    async with crew(server_folder, data=server_folder / "data") as team:
        nodes = [await team.through(pid) for pid in team.workers()]
        said = await nodes[0].client.say("hello", conversation_id="c")
        assert said[-1].type == "turn.committed"
        turn_id = str(said[-1].data["turn_id"])
        assert (await nodes[1].status(turn_id))["state"] == "committed"
        assert await asyncio.to_thread(team.process.stop) == 0
    assert not (server_folder / "data" / "pg" / "postmaster.pid").exists()
