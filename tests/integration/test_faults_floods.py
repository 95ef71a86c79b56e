"""A model that says too much, too fast or for ever: everything else goes on, and what was said is kept."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from application.language_model import Finished, ModelChunk, ModelRequest, Said, TextDelta
from application.listening import AT_ONCE, MOST_CALLS, WINDOW_S
from tests.integration.streams import data_of, end_of, ended, in_turn, log_of, rows, steered, types, until
from tests.openai_pieces import CallPiece, Pause, Piece, Text
from tests.openai_server import ChatRequest, OpenAIServer, Script
from tests.serving import Client, ServerProcess, SseFrame, serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

TEN_MB = [Text("0123456789" * 10_000)] * 100


def message_of(frames: list[SseFrame]) -> dict[str, object]:
    (said,) = data_of(frames, "conversation.assistant_message_sent")
    return said


def deltas_of(frames: list[SseFrame]) -> list[str]:
    return [frame.data["text"] for frame in frames if frame.type == "turn.delta"]


# --- too much --------------------------------------------------------------------------------------


@pytest.mark.may_block("the test itself parses ten megabytes")
async def test_an_answer_of_ten_megabytes_is_stored_whole_in_bounded_memory(
    database_url: str, tmp_path: Path
) -> None:
    async with OpenAIServer(lambda _: TEN_MB) as model:
        about = {"model": "openai:x", "model_base_url": model.base_url, "model_api_key": "k"}
        process = ServerProcess(tmp_path, database_url=database_url, **about)
        await asyncio.to_thread(process.start)
        try:
            before = peak_of(process.pid)
            async with (
                asyncio.timeout(100),
                serving_reads(database_url) as other,
            ):
                client = Client(other.client.http)
                body = {"turn_id": "t", "message": {"type": "user_message", "content": "much"}}
                response = await client.http.post(f"{process.url}/v1/messages/stream", json=body, timeout=90)
                again = await other.client.read_turn("t")
                await followed(client, process.url, again[-1])
                grown = peak_of(process.pid) - before
        finally:
            await asyncio.to_thread(process.kill)
    assert b"event: turn.committed" in response.content[-1000:]
    said = message_of(again)
    assert len(str(said["content"])) == 10_000_000
    assert (said["truncated"], said["finish_reason"]) == (False, "stop")
    # At its height a turn takes 12 times its answer; with the read models, which come after it, 17 times.
    assert grown < 26 * 10_000_000, f"{grown >> 20} MiB for ten"


def peak_of(pid: int) -> int:
    """Return the most memory that a process has had so far, in bytes."""
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return 1024 * int(peak)


async def followed(client: Client, url: str, end: SseFrame) -> None:
    """Wait until the read models of this process have followed up to a turn's end."""
    asked = f"{url}/v1/conversations/{end.data['conversation_id']}"
    async with asyncio.timeout(60):
        while True:
            answer = await client.http.get(asked, params={"min_position": end.data["last_position"]})
            if answer.status_code == 200:
                return


async def talked(database_url: str, script: Script, **settings: Any) -> tuple[list[SseFrame], list[SseFrame]]:
    """Let a model talk until it is left; returns that turn's frames, and those of a short one after it."""
    async with steered(database_url, script, **settings) as (server, model):
        async with asyncio.timeout(30):
            frames = await server.client.say("talk", conversation_id="c")
        await until(lambda: model.disconnects)
        model.script = in_turn([Text("Short.")])
        return frames, await server.client.say("and now?", conversation_id="c")


def without_end(_: ChatRequest) -> Iterator[Piece]:
    while True:
        yield Text("and on, ")


@pytest.mark.may_block("the model that never stops talking is on the loop of the test")
async def test_an_answer_above_the_limit_is_kept_up_to_there_and_the_model_is_left(
    database_url: str,
) -> None:
    frames, after = await talked(database_url, without_end, max_answer_bytes=10_000)
    said = message_of(frames)
    assert (said["truncated"], said["finish_reason"]) == (True, "answer_limit_reached")
    assert said["content"] == ("and on, " * 1250)
    assert "".join(deltas_of(frames)) == said["content"]
    assert (frames[-1].type, end_of(frames)["state"]) == ("turn.committed", "idle")
    assert "turn_cancelled" not in types(frames)
    assert message_of(after)["content"] == "Short."


@pytest.mark.may_block("the model that never stops calling is on the loop of the test")
async def test_calls_above_the_limit_fail_the_turn_and_leave_nothing(database_url: str) -> None:
    def endless_call(_: ChatRequest) -> Iterator[Piece]:
        yield CallPiece(0, '{"path": "', "call_1", "read_file")
        while True:
            yield CallPiece(0, "a" * 100)

    async with steered(database_url, endless_call, max_answer_bytes=10_000) as (server, model):
        async with asyncio.timeout(30):
            frames = await server.client.say("call", turn_id="t")
        await until(lambda: model.disconnects)
        assert await log_of(database_url) == []
    assert (end_of(frames)["code"], end_of(frames)["retryable"]) == ("answer_limit_reached", True)


@pytest.mark.parametrize(("count", "code"), [(MOST_CALLS, None), (MOST_CALLS + 1, "answer_limit_reached")])
async def test_more_calls_than_a_person_decides_on_fail_the_turn(
    database_url: str, count: int, code: str | None
) -> None:
    calls = [CallPiece(number, "{}", f"call_{number}", "read_file") for number in range(count)]
    async with steered(database_url, in_turn(calls)) as (server, _):
        frames = await server.client.say("call")
        assert end_of(frames).get("code") == code
        assert bool(await log_of(database_url)) == (code is None)
    assert types(frames).count("tool_call_requested") == (count if code is None else 0)


# --- for ever --------------------------------------------------------------------------------------


async def test_a_model_that_never_stops_is_stopped_and_what_it_said_is_kept(database_url: str) -> None:
    def slowly_for_ever(_: ChatRequest) -> Iterator[Piece]:
        while True:
            yield from (Text("still "), Pause(0.05))

    frames, after = await talked(database_url, slowly_for_ever, max_turn_s=1)
    said = message_of(frames)
    assert (said["truncated"], said["finish_reason"]) == (True, "turn_time_limit_reached")
    assert said["content"] == "".join(deltas_of(frames))
    assert frames[-1].type == after[-1].type == "turn.committed"


async def test_a_model_that_says_nothing_for_ever_fails_the_turn_at_its_time_limit(database_url: str) -> None:
    async with steered(database_url, lambda _: [Pause(60)], max_turn_s=0.5) as (server, _):
        async with asyncio.timeout(30):
            frames = await server.client.say("talk", turn_id="t")
        assert await log_of(database_url) == []
    assert (end_of(frames)["code"], end_of(frames)["retryable"]) == ("turn_time_limit_reached", True)


# --- too fast --------------------------------------------------------------------------------------

WORDS = 200_000


class Flood:
    """Says so many words without ever waiting; answers everybody else in one."""

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        newest = request.messages[-1]
        flood = isinstance(newest, Said) and newest.content == "flood"
        for number in range(WORDS if flood else 1):
            yield TextDelta(f"{number} ")
        yield Finished("stop")


async def test_deltas_faster_than_anybody_reads_are_joined_and_everything_else_goes_on(
    database_url: str,
) -> None:
    async with serving_reads(database_url, answering=Flood()) as server:
        await server.client.say("hello", conversation_id="other")
        begun = time.monotonic()
        flood = asyncio.create_task(server.client.say("flood", conversation_id="c"))
        others, kept = 0, 0
        while not flood.done():
            assert (await server.client.say("hello", conversation_id="other"))[-1].type == "turn.committed"
            others += 1
            (size,) = (await rows(database_url, "SELECT coalesce(sum(length(frames)), 0) FROM chunks"))[0]
            kept = max(kept, size)
        frames, took = await flood, time.monotonic() - begun
        await until_no_chunks(database_url)
    content = "".join(f"{number} " for number in range(WORDS))
    assert message_of(frames)["content"] == "".join(deltas_of(frames)) == content
    assert len(deltas_of(frames)) <= (took / WINDOW_S + 1) * (AT_ONCE + 1)
    assert len(deltas_of(frames)) < WORDS / 4, "nothing was joined"
    assert kept < 10 * len(content)
    assert others >= 2


async def until_no_chunks(database_url: str) -> None:
    async with asyncio.timeout(10):
        while await rows(database_url, "SELECT FROM chunks"):  # noqa: ASYNC110 (it is in the database)
            await asyncio.sleep(0.05)


# --- nobody reads ----------------------------------------------------------------------------------


@pytest.mark.may_block("a megabyte is read again at the end")
async def test_a_client_that_never_reads_its_turn_is_dropped_and_the_turn_runs_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.sse.SEND_TIMEOUT_S", 0.3)
    long = [Text("0123456789" * 5_000)] * 160  # more than the kernel's buffers take
    held = asyncio.Event()

    async def script() -> AsyncGenerator[Piece, None]:
        for piece in long:
            yield piece
        await held.wait()

    async with steered(database_url, lambda _: script()) as (server, _):
        with asking(server.url, "t"):
            async with asyncio.timeout(60):
                await until_open_streams(server.client, 1)
                await until_open_streams(server.client, 0)
            assert server.house.running.get("t"), "the turn ended with its reader"
            held.set()
            assert (await ended(server, "t"))["state"] == "committed"


def asking(url: str, turn_id: str) -> socket.socket:
    """Send a message through a small window, and read nothing of its stream."""
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps({"turn_id": turn_id, "message": {"type": "user_message", "content": "talk"}})
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    head = "POST /v1/messages/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return sock


async def until_open_streams(client: Client, number: int) -> None:
    said = f"sse_open_streams {number}.0"
    while said not in (await client.http.get("/metrics")).text:  # noqa: ASYNC110 (a metric has no event)
        await asyncio.sleep(0.05)
