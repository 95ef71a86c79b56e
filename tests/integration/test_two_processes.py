"""Two servers over one database: one turn a conversation, seen, steered and taken over from both."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.killing import judge_positions
from tests.replaying import LogRow, committed_part, read_log
from tests.serving import Client, Refused, ServerProcess, SseFrame, frames_of

pytestmark = pytest.mark.no_cover  # the server is another process: its lines are not seen

LEASE_S = 1.0
A_LITTLE_S = 1.5  # the sweep comes three times a lease; the rest is a busy machine

Outcome = list[SseFrame] | Refused


@dataclass(frozen=True)
class Node:
    """One of the two servers, and a client of it."""

    process: ServerProcess
    client: Client

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    async def say(self, content: str, **where: str) -> Outcome:
        try:
            return await self.client.say(content, **where)
        except Refused as refused:
            return refused

    async def send(self, message: Mapping[str, Any], **where: str) -> list[SseFrame]:
        return await self.client.send(message, **where)

    async def status(self, turn_id: str) -> dict[str, Any]:
        response = await self.client.http.get(f"/v1/turns/{turn_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def cancel(self, turn_id: str) -> dict[str, Any]:
        response = await self.client.http.post(f"/v1/turns/{turn_id}/cancel")
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def retry(self, turn_id: str) -> list[SseFrame]:
        async with self.client.http.stream("POST", f"/v1/turns/{turn_id}/retry") as response:
            assert response.status_code == 200, await response.aread()
            return [frame async for frame in frames_of(response)]


@pytest.fixture
async def nodes(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with AsyncExitStack() as stack:
        one, other = await asyncio.gather(
            *(stack.enter_async_context(running_node(database_url, tmp_path)) for _ in range(2))
        )
        yield one, other


@asynccontextmanager
async def running_node(database_url: str, folder: Path) -> AsyncIterator[Node]:
    process = ServerProcess(folder, database_url=database_url, lease_s=LEASE_S, demo_delay_s=0.02)
    await asyncio.to_thread(process.start)
    try:
        async with httpx.AsyncClient(base_url=process.url, timeout=30, verify=False) as http:
            yield Node(process, Client(http))
    finally:
        await asyncio.to_thread(process.kill)  # a stopped one, too


@asynccontextmanager
async def begun(node: Node, content: str, **where: str) -> AsyncIterator[AsyncIterator[SseFrame]]:
    """A stream whose turn is running: its first words have been read."""
    message = {"type": "user_message", "content": content}
    async with node.client.stream({**where, "message": message}) as response:
        assert response.status_code == 200, await response.aread()
        stream = frames_of(response)
        while (await anext(stream)).type != "turn.delta":
            pass
        yield stream


@asynccontextmanager
async def hearing(node: Node, path: str) -> AsyncIterator[tuple[list[SseFrame], AsyncIterator[SseFrame]]]:
    """What was heard of a stream or feed up to the first words of a turn, and the rest of it."""
    async with node.client.http.stream("GET", path) as response:
        assert response.status_code == 200, await response.aread()
        rest, heard = frames_of(response), list[SseFrame]()
        async with asyncio.timeout(10):
            while not heard or heard[-1].type != "turn.delta":
                heard.append(await anext(rest))
        yield heard, rest


async def stored(database_url: str, turn_id: str) -> list[LogRow]:
    log = await asyncio.to_thread(read_log, database_url)
    judge_positions(log)
    return [row for row in log if row.turn == turn_id]


def told(frames: list[SseFrame]) -> list[tuple[int, str, Any]]:
    return [(frame.data["position"], frame.type, frame.data["data"]) for frame in committed_part(frames)[:-1]]


def in_log(rows: list[LogRow]) -> list[tuple[int, str, Any]]:
    return [(row.position, row.type, row.data) for row in rows]


async def started_conversation(node: Node) -> str:
    return str((await node.client.say("hello"))[0].data["conversation_id"])


# --- a race ----------------------------------------------------------------------------------------


async def test_of_two_turns_sent_to_two_processes_one_runs_and_the_other_learns_which(
    nodes: tuple[Node, Node], database_url: str
) -> None:
    conversations = await asyncio.gather(*(started_conversation(nodes[i % 2]) for i in range(10)))
    conversations += [str(uuid4()) for _ in range(5)]  # and some that neither has seen before

    async def race(conversation_id: str) -> None:
        ids = [str(uuid4()), str(uuid4())]
        outcomes: list[Outcome] = await asyncio.gather(
            *(
                node.say("slow 1", conversation_id=conversation_id, turn_id=turn_id)
                for node, turn_id in zip(nodes, ids, strict=True)
            )
        )
        winner = next(index for index, one in enumerate(outcomes) if isinstance(one, list))
        frames, refused = outcomes[winner], outcomes[1 - winner]
        assert isinstance(frames, list)
        assert frames[-1].type == "turn.committed"
        assert isinstance(refused, Refused)
        assert (refused.status, refused.code) == (409, "turn_in_progress")
        assert refused.problem["turn_id"] == ids[winner]
        assert in_log(await stored(database_url, ids[winner])) == told(frames)
        assert await stored(database_url, ids[1 - winner]) == []

    await asyncio.gather(*map(race, conversations))


async def test_one_turn_sent_to_two_processes_runs_once_and_reads_the_same_on_both(
    nodes: tuple[Node, Node], database_url: str
) -> None:
    async def send_to_both(number: int) -> None:
        where = {"conversation_id": str(uuid4()), "turn_id": str(uuid4())}
        first, second = await asyncio.gather(*(node.client.say(f"list {number}", **where) for node in nodes))
        assert committed_part(first) == committed_part(second)
        assert first[-1].type == "turn.committed"
        assert in_log(await stored(database_url, where["turn_id"])) == told(first)

    await asyncio.gather(*map(send_to_both, range(20)))


async def test_results_given_to_two_processes_side_by_side_are_all_taken_and_the_agent_goes_on_once(
    nodes: tuple[Node, Node], database_url: str
) -> None:
    for _ in range(5):
        asked = await nodes[0].client.say("three files")
        end = asked[-1].data
        assert len(end["waiting_for"]["calls"]) == 3
        streams = await asyncio.gather(
            *(
                nodes[number % 2].send(
                    {"type": "tool_result", "call_id": call_id, "result": number},
                    conversation_id=end["conversation_id"],
                )
                for number, call_id in enumerate(end["waiting_for"]["calls"])
            )
        )
        kinds = [frame.type for frames in streams for frame in frames]
        assert kinds.count("conversation.tool_result_received") == 3
        assert kinds.count("conversation.assistant_message_sent") == 1
        assert kinds.count("turn.committed") == 3
    judge_positions(await asyncio.to_thread(read_log, database_url))


# --- from the other side ---------------------------------------------------------------------------


async def test_a_turn_is_watched_and_cancelled_from_the_other_process(
    nodes: tuple[Node, Node], database_url: str
) -> None:
    one, other = nodes
    turn_id = str(uuid4())
    async with begun(one, "slow 60", turn_id=turn_id) as stream:
        assert (await other.status(turn_id))["state"] == "running"
        async with hearing(other, f"/v1/turns/{turn_id}/stream") as (heard, rest):
            began = time.monotonic()
            assert (await other.cancel(turn_id))["state"] == "committed"
            assert time.monotonic() - began < LEASE_S + A_LITTLE_S
            frames = [frame async for frame in stream]
            heard.extend([frame async for frame in rest])
    assert [frame.type for frame in heard[:2]] == ["turn.started", "turn.delta"]
    assert committed_part(heard) == committed_part(frames)
    types = [row.type for row in await stored(database_url, turn_id)]
    assert types[-2:] == ["conversation.assistant_message_sent", "conversation.turn_cancelled"]
    assert (await other.cancel(turn_id))["state"] == "committed"


async def test_a_turn_that_failed_on_one_process_is_retried_on_the_other(
    nodes: tuple[Node, Node], database_url: str
) -> None:
    one, other = nodes
    turn_id = str(uuid4())
    await one.client.say("fail", turn_id=turn_id)
    assert (await other.status(turn_id))["state"] == "failed"
    again = await other.retry(turn_id)
    assert {str(frame.id).partition(".")[0] for frame in again} == {"2"}
    assert (await one.status(turn_id))["attempt"] == 2
    assert committed_part(await one.client.read_turn(turn_id)) == committed_part(again)
    assert await stored(database_url, turn_id) == []


# --- the dead and the stopped ----------------------------------------------------------------------


async def until_abandoned(node: Node, turn_id: str) -> None:
    async with asyncio.timeout(LEASE_S + A_LITTLE_S):
        while (await node.status(turn_id))["state"] == "running":  # noqa: ASYNC110 (it is not in this process)
            await asyncio.sleep(0.05)
    assert (await node.status(turn_id))["state"] == "abandoned"


async def test_a_turn_of_a_killed_process_is_abandoned_with_its_lease_and_taken_over(
    nodes: tuple[Node, Node], database_url: str
) -> None:
    one, other = nodes
    turn_id, conversation_id = str(uuid4()), await started_conversation(one)
    async with begun(one, "slow 2", turn_id=turn_id, conversation_id=conversation_id):
        watching = asyncio.create_task(other.client.read_turn(turn_id))
        await asyncio.to_thread(one.process.kill)
    await until_abandoned(other, turn_id)
    seen = (await watching)[-1]
    assert (seen.type, seen.data["code"], seen.data["retryable"]) == ("turn.failed", "turn_abandoned", True)
    assert await stored(database_url, turn_id) == []
    free = await other.client.say("hello", conversation_id=conversation_id)
    assert free[-1].type == "turn.committed"
    frames = await other.retry(turn_id)
    assert frames[-1].type == "turn.committed"
    assert in_log(await stored(database_url, turn_id)) == told(frames)


@pytest.mark.parametrize("meanwhile", ["the same turn", "another turn", "nothing"])
async def test_a_process_that_slept_longer_than_its_lease_cannot_commit_any_more(
    nodes: tuple[Node, Node], database_url: str, meanwhile: str
) -> None:
    one, other = nodes
    turn_id, conversation_id = str(uuid4()), await started_conversation(one)
    async with begun(one, "slow 1", turn_id=turn_id, conversation_id=conversation_id) as stream:
        one.signal(signal.SIGSTOP)
        await until_abandoned(other, turn_id)
        frames: list[SseFrame] = []
        if meanwhile == "the same turn":
            frames = await other.retry(turn_id)
        elif meanwhile == "another turn":
            await other.client.say("hello", conversation_id=conversation_id)
        one.signal(signal.SIGCONT)
        late = [frame async for frame in stream]
    assert late[-1].type == "turn.failed"
    assert late[-1].data["code"] in {"turn_lost", "turn_abandoned"}
    assert not [frame for frame in late if "position" in frame.data]
    assert in_log(await stored(database_url, turn_id)) == (told(frames) if frames else [])
    state = "committed" if meanwhile == "the same turn" else "abandoned"
    assert (await one.status(turn_id))["state"] == (await other.status(turn_id))["state"] == state
    free = await one.client.say("hello", conversation_id=conversation_id)
    assert free[-1].type == "turn.committed"
