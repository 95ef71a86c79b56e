"""The client that users import, and the one they copy, against real servers that cut, die and come back."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from minutebook_client import Client, RefusedError, UnreachableError
from tests.cutting import cutting_proxy
from tests.integration.client_helpers import CutModel, check_ids, last_position, stored, take_until, whole
from tests.integration.streams import in_turn, steered
from tests.serving import REPOSITORY, ServerProcess, serving


async def test_a_conversation_is_sent_decided_answered_and_watched(database_url: str) -> None:
    async with serving(database_url) as server, Client(server.url) as client:
        asked = await whole(client.say("coder: write a.txt", conversation_id="c"))
        (call_id,) = asked[-1].data["waiting_for"]["decisions"]
        edited = await whole(client.decide("c", call_id, "edit", arguments={"path": "b.txt", "content": ""}))
        assert "conversation.tool_call_edited" in [frame.type for frame in edited]
        answered = await whole(client.answer("c", call_id, None))
        assert answered[-1].data["state"] == "idle"
        await whole(client.switch("c", "architect"))
        proposed = await whole(client.say("plan a house", conversation_id="c"))
        plan = proposed[-1].data["waiting_for"]["plan"]
        rejected = await whole(client.decide_plan("c", plan["plan_id"], plan["plan_version"], "reject"))
        async with aclosing(client.watch_conversation("c")) as feed:
            assert await take_until(feed, last_position(rejected)) == await stored(database_url)


async def test_every_stream_goes_on_behind_a_proxy_that_cuts(database_url: str) -> None:
    model = CutModel()
    async with (
        steered(database_url, in_turn(model.pieces())) as (server, _),
        cutting_proxy(server.url, frames=3) as proxy,
        Client(proxy.url) as client,
    ):
        model.proxy = proxy
        said = await whole(client.say("hello", conversation_id="c", turn_id="t"))
        assert proxy.cuts > 5
        async with aclosing(client.watch_conversation("c")) as feed:
            assert await take_until(feed, last_position(said)) == await stored(database_url)
    check_ids([str(frame.id) for frame in said])
    assert [frame.position for frame in said if frame.position] == await stored(database_url)
    assert said[-1].is_final
    assert "".join(frame.text for frame in said).startswith("word1 word2 word3 ")


async def test_a_killed_server_costs_the_turn_an_attempt_and_the_feed_nothing(
    database_url: str, tmp_path: Path
) -> None:
    process = ServerProcess(tmp_path, database_url=database_url, lease_s=1, demo_delay_s=0.02)
    await asyncio.to_thread(process.start)
    port = int(process.url.rpartition(":")[2])
    try:
        async with Client(process.url) as client, aclosing(client.watch_conversation("c")) as feed:
            first = await whole(client.say("hello", conversation_id="c"))
            seen = await take_until(feed, last_position(first))
            running = client.say("long 60", conversation_id="c", turn_id="t")
            while (await anext(running)).type != "turn.delta":
                pass
            process.kill()
            starting = asyncio.create_task(asyncio.to_thread(process.start, port))
            failed = (await whole(running))[-1]
            await starting
            assert (failed.type, failed.data["code"]) == ("turn.failed", "turn_abandoned")
            again = await whole(client.retry("t"))
            assert again[-1].type == "turn.committed"
            seen += await take_until(feed, last_position(again))
    finally:
        await asyncio.to_thread(process.kill)
    assert seen == await stored(database_url)


async def test_a_turn_is_cancelled_and_its_state_is_told(database_url: str) -> None:
    async with serving(database_url, demo_delay_s=0.02) as server, Client(server.url) as client:
        running = client.say("long 500", conversation_id="c", turn_id="t")
        while (await anext(running)).type != "turn.delta":
            pass
        assert (await client.cancel("t"))["state"] == "committed"
        assert (await client.turn("t"))["state"] == "committed"
        assert (await whole(running))[-1].type == "turn.committed"
        assert [f.type for f in await whole(client.watch_turn("t"))][-2] == "conversation.turn_cancelled"


async def refusal_of(asked: Awaitable[object]) -> str:
    with pytest.raises(RefusedError) as refused:
        await asked
    return refused.value.code


async def test_a_conversation_is_erased_by_whose_it_is_and_takes_nothing_more(database_url: str) -> None:
    async with (
        serving(database_url, identity_header="X-Subject", demo_delay_s=0.02) as server,
        Client(server.url, {"X-Subject": "ann"}) as ann,
        Client(server.url, {"X-Subject": "bob"}) as bob,
    ):
        said = await whole(ann.say("hello", conversation_id="c"))
        assert await refusal_of(bob.erase("c")) == "conversation_not_found"
        running = ann.say("long 500", conversation_id="c", turn_id="t")
        while (await anext(running)).type != "turn.delta":
            pass
        assert await refusal_of(ann.erase("c")) == "turn_in_progress"
        await ann.cancel("t")
        last = last_position(await whole(running))
        receipt = await ann.erase("c", reason="she asked for it")
        assert (receipt.conversation_id, receipt.position) == ("c", last + 1)
        assert (receipt.actor, receipt.reason) == ("user:ann", "she asked for it")
        assert receipt.erased["events"] == last > last_position(said)
        assert receipt.erased_at.tzinfo is not None
        assert receipt.scrubbed_at is None
        assert await ann.erase("c") == receipt
        assert await refusal_of(whole(ann.say("hello again", conversation_id="c"))) == "conversation_erased"
        async with aclosing(ann.watch_conversation("c")) as feed:
            assert (await anext(feed)).data["data"] == {"erased": True}


async def test_what_the_server_refuses_is_an_error_with_its_code(database_url: str) -> None:
    async with serving(database_url, identity_header="X-Subject") as server:
        async with Client(server.url) as nobody:
            with pytest.raises(RefusedError, match="unauthenticated") as refused:
                await whole(nobody.say("hello"))
            assert refused.value.status == 401
        async with Client(server.url, {"X-Subject": "ann"}) as ann:
            with pytest.raises(RefusedError, match="conversation_not_found"):
                await anext(ann.watch_conversation("c"))
            with pytest.raises(RefusedError, match="turn_not_found"):
                await ann.cancel("t")


async def test_a_server_that_stays_away_is_an_error_in_the_end(unused_tcp_port: int) -> None:
    async with Client(f"http://127.0.0.1:{unused_tcp_port}", patience_s=0.3) as client:
        with pytest.raises(UnreachableError):
            await whole(client.say("hello"))
        with pytest.raises(UnreachableError):
            await client.turn("t")


async def test_a_feed_in_which_nothing_happens_outlives_any_number_of_breaks() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: still here\n\n"
    event = b'id: 1\nevent: conversation.renamed\ndata: {"position":1}\n\n'
    asked, last_is_over = 0, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + (event if asked == 3 else b""))
        with suppress(TimeoutError):  # longer than the client is patient: but it has been answered
            await asyncio.wait_for(reader.read(), 1.2)
        writer.close()
        await writer.wait_closed()
        if asked == 3:
            last_is_over.set()

    server = await asyncio.start_server(answer, "127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with Client(url, patience_s=1) as client, aclosing(client.watch_conversation("c")) as frames:
            assert (await anext(frames)).position == 1
        await last_is_over.wait()


def test_the_client_needs_httpx_and_nothing_of_the_server() -> None:
    code = (
        "import sys, minutebook_client; known = {*sys.stdlib_module_names};"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - known))"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    loaded = set(done.stdout.split())
    assert "httpx" in loaded
    ours = {"domain", "application", "infrastructure", "api"}
    assert loaded & {*ours, "fastapi", "psycopg", "pydantic", "eventsourcing", "starlette"} == set()
