"""The client that users import, and the one they copy, against real servers that cut, die and come back."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import pytest

from minutebook_client import Client, Frame, RefusedError, UnreachableError
from tests.cutting import CuttingProxy, cutting_proxy
from tests.integration.streams import in_turn, steered, until
from tests.openai_pieces import Piece, Text
from tests.pages import blocks, page
from tests.replaying import read_log
from tests.serving import REPOSITORY, ServerProcess, serving


async def whole(frames: AsyncIterator[Frame]) -> list[Frame]:
    return [frame async for frame in frames]


async def take_until(frames: AsyncIterator[Frame], position: int) -> list[int]:
    """Read a feed up to this position; returns the positions that came."""
    seen: list[int] = []
    async with asyncio.timeout(30):
        async for frame in frames:
            seen += [frame.position] if frame.position else []
            if seen and seen[-1] >= position:
                return seen
    raise AssertionError("the feed ended")


async def stored(database_url: str) -> list[int]:
    return [row.position for row in await asyncio.to_thread(read_log, database_url)]


def last_position(frames: Sequence[Frame]) -> int:
    return int(frames[-1].data["last_position"])


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


class CutModel:
    """A model that goes on speaking once its reader was cut again: what is said behind a commit vanishes."""

    def __init__(self) -> None:
        self.proxy: CuttingProxy | None = None

    async def pieces(self) -> AsyncIterator[Piece]:
        for number in range(30):
            yield Text(f"word{number + 1} ")
            await until(partial(self._was_cut, number), 60)

    def _was_cut(self, words: int) -> bool:
        return self.proxy is not None and self.proxy.cuts >= words // self.proxy.frames


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


def check_ids(ids: Sequence[str]) -> None:
    """Hold the ids of a turn to their order; what was not stored may be missing, nothing comes twice."""
    numbers = [int(one.removeprefix("1.")) for one in ids]
    assert numbers == sorted(set(numbers))


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


# --- the page --------------------------------------------------------------------------------------


def example(name: str, folder: Path) -> Path:
    (block, *_) = blocks(page("client.md").partition(f"<!-- {name} -->")[2])
    (folder / name).write_text(block.text, encoding="utf-8")
    return folder / name


async def output_of(*command: str, url: str) -> str:
    env = {**os.environ, "SERVER_URL": url, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return out.decode()


async def test_the_python_of_the_page_runs_behind_a_proxy_that_cuts(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server, cutting_proxy(server.url, frames=2) as proxy:
        said = await output_of(sys.executable, str(example("talk.py", tmp_path)), url=proxy.url)
    events = [line for line in said.splitlines() if " conversation." in line or " agent." in line]
    log = await asyncio.to_thread(read_log, database_url)
    types = [f"{row.position} {row.type}" for row in log]
    assert events == types[: len(events)]
    assert events[-1].endswith("conversation.tool_result_received")


TALK = """
import { send, watch } from "./minutebook.mjs";
const server = process.env.SERVER_URL, said = [], stored = [];
let last;
const message = { type: "user_message", content: "long 30" };
for await (const frame of send(server, message, { conversation_id: "c" })) {
  said.push(frame.id); last = frame;
}
for await (const frame of watch(server, "c")) {
  if (frame.position) stored.push(frame.position);
  if (frame.position === last.last_position) break;
}
let code;
try { for await (const _ of watch(server, "nobody")); } catch (problem) { code = problem.code; }
console.log(said.join(" ")); console.log(stored.join(" ")); console.log(last.type, code);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_javascript_of_the_page_resumes_behind_a_proxy_that_cuts(
    database_url: str, tmp_path: Path
) -> None:
    source = example("minutebook.mjs", tmp_path)
    assert len(source.read_text().splitlines()) <= 40
    (tmp_path / "talk.mjs").write_text(TALK)
    model = CutModel()
    async with (
        steered(database_url, in_turn(model.pieces())) as (server, _),
        cutting_proxy(server.url, frames=4) as proxy,
    ):
        model.proxy = proxy
        output = await output_of("node", str(tmp_path / "talk.mjs"), url=proxy.url)
        said, positions, end = output.splitlines()
        assert proxy.cuts > 5
    check_ids(said.split())
    assert [int(one) for one in positions.split()] == await stored(database_url)
    assert end == "turn.committed conversation_not_found"


LISTEN = """
import { watch } from "./minutebook.mjs";
const seen = [];
for await (const frame of watch(process.env.SERVER_URL, "c")) {
  if (!["turn.failed", "conversation.assistant_message_sent"].includes(frame.type)) continue;
  seen.push(frame.type);
  if (seen.length === 3) break;
}
console.log(seen.join(" "));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_javascript_of_the_page_watches_on_behind_a_failed_turn_and_leaves_when_it_is_told(
    database_url: str, tmp_path: Path
) -> None:
    example("minutebook.mjs", tmp_path)
    (tmp_path / "listen.mjs").write_text(LISTEN)
    async with serving(database_url) as server:
        await server.client.say("hello", conversation_id="c")
        listening = asyncio.create_task(output_of("node", str(tmp_path / "listen.mjs"), url=server.url))
        await until(lambda: server.house.live.has_readers, 60)
        await server.client.say("fail", conversation_id="c")
        await server.client.say("hello", conversation_id="c")
        said = "conversation.assistant_message_sent"
        assert (await listening).split() == [said, "turn.failed", said]
        await until(lambda: not server.house.live.has_readers, 60)
