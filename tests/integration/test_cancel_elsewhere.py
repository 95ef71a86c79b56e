"""A turn stopped through the process that does not run it: its provider is left, what was said is kept."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from application.ports import TurnRow
from infrastructure.postgres.turns import PostgresTurns
from minutebook_client import Client as UserClient
from tests.integration.streams import Gate, in_turn, steered
from tests.integration.test_streams_failures import retry
from tests.integration.test_two_processes import Node, begun, stored
from tests.openai_pieces import Pause, StreamError, Text
from tests.openai_server import OpenAIServer
from tests.serving import Client, ServerProcess, Serving, SseFrame, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

SAID = "What I was about to"


@asynccontextmanager
async def nodes_on(provider: OpenAIServer, database_url: str, folder: Path) -> AsyncIterator[list[Node]]:
    """Two servers that ask this provider."""
    model = {"model": "openai:x", "model_base_url": provider.base_url, "model_api_key": "sk-none"}
    processes = [ServerProcess(folder, database_url=database_url, **model) for _ in range(2)]
    try:
        await asyncio.gather(*(asyncio.to_thread(one.start, 0, 60) for one in processes))
        async with AsyncExitStack() as stack:
            clients = [httpx.AsyncClient(base_url=one.url, timeout=30, verify=False) for one in processes]
            for http in clients:
                await stack.enter_async_context(http)
            yield [Node(process, Client(http)) for process, http in zip(processes, clients, strict=True)]
    finally:
        for process in processes:
            await asyncio.to_thread(process.kill)


async def test_a_cancel_through_another_process_leaves_the_provider_within_a_second(
    database_url: str, tmp_path: Path
) -> None:
    took = []
    async with (
        OpenAIServer(lambda _: [Text(SAID), Pause(60)]) as provider,
        nodes_on(provider, database_url, tmp_path) as (one, other),
    ):
        for turn_id in ("t-1", "t-2", "t-3"):
            provider.disconnected.clear()
            async with begun(one, "hi", turn_id=turn_id, conversation_id="c") as stream:
                began = time.monotonic()
                cancelling = asyncio.gather(other.cancel(turn_id), other.cancel(turn_id))
                async with asyncio.timeout(30):
                    await provider.disconnected.wait()
                took.append(time.monotonic() - began)
                first, second = await cancelling
                assert [frame async for frame in stream][-1].type == "turn.committed"
            assert first == second == await one.cancel(turn_id)
            assert first["state"] == "committed"
            await judge(database_url, turn_id)
        assert provider.disconnects == len(provider.requests) == 3
    assert sorted(took)[1] < 1.0, took


async def judge(database_url: str, turn_id: str) -> None:
    """What was said is kept and marked as cut; the turn was stopped once."""
    rows = await stored(database_url, turn_id)
    assert [row.type for row in rows][-2:] == [
        "conversation.assistant_message_sent",
        "conversation.turn_cancelled",
    ]
    assert [row.type for row in rows].count("conversation.turn_cancelled") == 1
    sent = rows[-2].data
    assert (sent["content"], sent["truncated"], sent["finish_reason"]) == (SAID, True, "cancelled")


@asynccontextmanager
async def killed_while_it_speaks(database_url: str, folder: Path, lease_s: float) -> AsyncIterator[Serving]:
    """A server beside one that was killed in the middle of the turn `t` of the conversation `c`."""
    process = ServerProcess(folder, database_url=database_url, lease_s=lease_s, demo_delay_s=0.02)
    async with serving(database_url, lease_s=lease_s) as alive:
        try:
            await asyncio.to_thread(process.start)
            async with (
                httpx.AsyncClient(base_url=process.url, timeout=30, verify=False) as http,
                begun(Node(process, Client(http)), "slow 60", turn_id="t", conversation_id="c"),
            ):
                await asyncio.to_thread(process.kill)
            yield alive
        finally:
            await asyncio.to_thread(process.kill)


async def test_a_cancelled_turn_whose_server_was_killed_is_abandoned_in_the_answer(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("application.turns.CANCEL_AT_LEAST_S", 0.1)  # of the lease, not of chance
    async with killed_while_it_speaks(database_url, tmp_path, lease_s=2.0) as alive:
        cancelling = [alive.client.http.post("/v1/turns/t/cancel") for _ in range(2)]
        for answer in await asyncio.gather(*cancelling):
            assert (answer.status_code, answer.json()["state"]) == (200, "abandoned")
            assert answer.json()["error"]["code"] == "turn_abandoned"
        assert await stored(database_url, "t") == []
        assert (await alive.client.say("hello", conversation_id="c"))[-1].type == "turn.committed"


@pytest.mark.parametrize("moment", ["that has ended", "whose cancel has just been asked for"])
async def test_a_cancel_of_an_attempt_does_not_stop_the_next_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first, second = Gate(StreamError()), Gate()
    ask = PostgresTurns.request_cancel
    async with steered(database_url, in_turn(first.pieces(), second.pieces())) as (server, _):
        retrying: asyncio.Task[list[SseFrame]]

        async def retried_meanwhile(turns: PostgresTurns, turn_id: str, subject: str) -> TurnRow | None:
            """As if the retry came between the question and its answer."""
            nonlocal retrying
            if moment == "that has ended":
                row = await ask(turns, turn_id, subject)
            else:
                row = await turns.find(turn_id, subject)
            first.opened.set()
            await failing
            retrying = asyncio.create_task(retry(server, turn_id))
            await second.reached.wait()
            return row

        failing = asyncio.create_task(server.client.say("hi", turn_id="t", conversation_id="c"))
        await first.reached.wait()
        if moment == "that has ended":
            first.opened.set()
            await failing
        monkeypatch.setattr(PostgresTurns, "request_cancel", retried_meanwhile)
        answer = (await server.client.http.post("/v1/turns/t/cancel")).json()
        second.opened.set()
        end = (await retrying)[-1]
    assert end.type == "turn.committed"
    assert "turn_cancelled" not in str(await stored(database_url, "t"))
    assert answer["state"] in ("failed", "running")


async def test_a_cancel_that_cannot_wait_for_the_end_says_that_the_turn_was_asked_to_stop(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("application.turns.CANCEL_AT_MOST_S", 0.2)
    async with killed_while_it_speaks(database_url, tmp_path, lease_s=60.0) as alive:
        answer = await alive.client.http.post("/v1/turns/t/cancel")
        assert (answer.status_code, answer.json()["state"], answer.json()["error"]) == (202, "running", None)
        async with UserClient(alive.url) as client:
            assert (await client.cancel("t"))["state"] == "running"


async def test_a_server_that_closes_does_not_wait_for_the_turn_of_another_one(
    database_url: str, tmp_path: Path
) -> None:
    async with killed_while_it_speaks(database_url, tmp_path, lease_s=60.0) as alive, asyncio.timeout(15):
        answer, _ = await asyncio.gather(
            alive.client.http.post("/v1/turns/t/cancel"), alive.house.running.close(0)
        )
        assert (answer.status_code, answer.json()["state"]) == (202, "running")


async def test_a_watcher_that_leaves_another_process_stops_nothing(database_url: str, tmp_path: Path) -> None:
    async with (
        OpenAIServer(lambda _: [Text(SAID), Pause(2), Text(" say")]) as provider,
        nodes_on(provider, database_url, tmp_path) as (one, other),
    ):
        async with (
            begun(one, "hi", turn_id="t", conversation_id="c"),
            other.client.http.stream("GET", "/v1/turns/t/stream") as watching,
        ):
            assert watching.status_code == 200
        frames = await other.client.read_turn("t")  # both have gone by now
        assert frames[-1].type == "turn.committed"
        assert provider.disconnects == 0
    (sent,) = [row for row in await stored(database_url, "t") if row.type.endswith("message_sent")]
    assert sent.data["content"] == f"{SAID} say"
