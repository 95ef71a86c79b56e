"""What an operator sees: metrics and the log."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from application.errors import StoreUnavailableError
from application.ports import Committed
from application.turn import Kit, Turn
from application.use_cases import USE_CASES
from infrastructure.postgres.appender import Save
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.integration.saves import appending, events
from tests.integration.streams import calls_of, end_of, result
from tests.integration.waiting import eventually
from tests.openai_pieces import Cut, Piece, Status, Text, call
from tests.openai_server import ChatRequest, OpenAIServer
from tests.serving import Client, ServerProcess, Serving, serving


async def metric(server: Serving, name: str, **labels: str) -> float:
    """Return the value of one sample, 0 where there is none yet."""
    response = await server.client.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


# --- metrics -------------------------------------------------------------------------------------


async def test_a_turn_moves_the_two_names_of_the_origin_and_all_of_ours(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.client.say("help")
        await server.client.say("fail")
        said = {"operation": "user_message"}
        assert await metric(server, "sse_transaction_commits_total", **said, status="committed") == 1
        assert await metric(server, "sse_transaction_commits_total", **said, status="rolled_back") == 1
        assert await metric(server, "sse_transaction_duration_seconds_count", **said) == 2
        assert await metric(server, "sse_transaction_duration_seconds_sum", **said) > 0
        await eventually(lambda: _is(server, "sse_stream_lifetime_seconds_count", 2))
        assert await metric(server, "append_batch_saves_count") == 1
        assert await metric(server, "append_batch_saves_sum") == 1
        assert await metric(server, "turns_ended_total", kind="user_message", outcome="committed") == 1
        assert await metric(server, "turns_ended_total", outcome="model_unavailable") == 1
        assert await metric(server, "turn_duration_seconds_count", kind="user_message") == 2
        assert await metric(server, "model_call_duration_seconds_count", model="demo") == 2
        assert await metric(server, "model_calls_total", model="demo", outcome="stop") == 1
        assert await metric(server, "model_calls_total", model="demo", outcome="model_unavailable") == 1
        assert await metric(server, "model_tokens_total", model="demo", direction="input") > 0
        assert await metric(server, "model_tokens_total", model="demo", direction="output") > 0


async def _is(server: Serving, name: str, value: float) -> bool:
    return await metric(server, name) == value


async def test_open_streams_and_running_turns_rise_and_fall(database_url: str) -> None:
    async with serving(database_url, demo_delay_s=0.05) as server:
        body = {"message": {"type": "user_message", "content": "long 20"}}
        async with server.client.stream(body):
            await eventually(lambda: _is(server, "sse_open_streams", 1))
            assert await metric(server, "turns_running") == 1
        await eventually(lambda: _is(server, "sse_open_streams", 0), 1.0)
        assert await metric(server, "turns_running") == 1  # the client has gone, the turn has not
        await eventually(lambda: _is(server, "turns_running", 0))
        assert await metric(server, "sse_stream_lifetime_seconds_count") == 1


async def test_an_append_that_meets_another_writer_is_counted(database_url: str) -> None:
    async with serving(database_url, demo_delay_s=0.05) as server:
        await server.client.say("hello", conversation_id="busy")
        assert await metric(server, "append_conflicts_total") == 0
        running = asyncio.create_task(server.client.say("long 20", conversation_id="busy"))
        await eventually(lambda: _is(server, "turns_running", 1))
        await asyncio.sleep(0.2)  # it has loaded by now
        async with appending(database_url) as appender:
            stream = "agent-busy"
            await appender.append(Save(events(stream, 2), {stream: 2}))
        frames = await running
        assert (frames[-1].type, frames[-1].data["code"]) == ("turn.failed", "conflict")
        assert await metric(server, "append_conflicts_total") == 1


# --- the log -------------------------------------------------------------------------------------


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """Return what the server logged; every line that is not of the welcome is one JSON object."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.may_block("it starts a server and waits for it")
async def test_each_stream_logs_one_line_at_its_end(database_url: str, server_folder: Path) -> None:
    with ServerProcess(server_folder, database_url=database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=False) as http:
            client = Client(http)
            said = await client.say("help", conversation_id="first")
            failed = await client.say("fail", conversation_id="second")
            refused = await http.post(
                "/v1/messages/stream",
                json={"conversation_id": "no", "message": {"type": "switch_agent", "agent": "ask"}},
            )
            assert refused.status_code == 404
        assert server.stop() == 0
        written = [line for line in lines(server) if line["event"] == "stream"]
    assert [line["outcome"] for line in written] == ["committed", "model_unavailable", "refused"]
    assert [line["commits"] for line in written] == [1, 0, 0]
    assert [line["events"] for line in written] == [said[-1].data["events"], 0, 0]
    assert [line["turn"] for line in written[:2]] == [said[-1].data["turn_id"], failed[-1].data["turn_id"]]
    assert [line["kind"] for line in written] == ["user_message", "user_message", "switch_agent"]
    assert all(0 < line["lifetime_s"] < 10 for line in written)
    assert written[0].keys() >= {"conversation", "attempt", "level", "timestamp"}


async def _acknowledged_by_nobody(message: Any, turn: Turn, kit: Kit) -> Committed:
    await USE_CASES[turn.row.kind](message, turn, kit)
    raise StoreUnavailableError


async def test_a_commit_that_is_found_out_afterwards_is_counted_and_logged_as_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(database_url) as server:
        (call_id,) = calls_of(await server.client.say("read a.txt", conversation_id="ada"))
        monkeypatch.setattr("application.running.USE_CASES", {"tool_result": _acknowledged_by_nobody})
        with structlog.testing.capture_logs() as logged:
            ends = [end_of(await result(server.client, "ada", call_id)) for _ in range(2)]
            await eventually(lambda: _is(server, "turns_ended_total", 3))
        said = {"operation": "tool_result"}
        assert await metric(server, "sse_transaction_commits_total", **said, status="committed") == 2
        assert await metric(server, "sse_transaction_commits_total", **said, status="rolled_back") == 0
    assert ends[0]["events"] == ends[1]["events"] == 3
    written = [line for line in logged if line["event"] == "stream"]
    assert [(line["outcome"], line["commits"], line["events"]) for line in written] == [
        ("committed", 1, 3), ("committed", 1, 0)  # the second repeats the first: it has no events of its own
    ]  # fmt: skip


SECRETS = (SAID, ANSWERED, RESULT, ARGUMENT, KEY, PASSWORD, SCOLDED) = tuple(
    f"{what}-must-never-be-logged"
    for what in ("said", "answer", "result", "argument", "sk-key", "password", "scold")
)


def scripted(request: ChatRequest) -> Iterable[Piece]:
    """Answer well or badly, by the newest words; whatever is said has a secret in it."""
    words = str(request.messages[-1].get("content"))
    if "bad" in words:
        return [Status(500, f"{SCOLDED} {words}")]
    if "key" in words:
        return [Status(401, f"the key {KEY} is not valid")]
    if "cut" in words:
        return [Text(ANSWERED), Cut()]
    if "malformed" in words:
        return [Text(ANSWERED), *call(0, "c1", "read_file", f'{{"path": "{ARGUMENT}')]
    if "read" in words:
        return [*call(0, "c1", "read_file", json.dumps({"path": ARGUMENT}))]
    return [Text(ANSWERED)]


@pytest.mark.may_block("it starts a server and waits for it")
@pytest.mark.parametrize("level", ["debug", "warning"])  # all there is to say, and little of it
async def test_neither_keys_nor_what_was_said_are_ever_logged(server_folder: Path, level: str) -> None:
    with EmbeddedPostgres(server_folder / "store") as postgres:
        url = postgres.start().replace("minutebook@", f"minutebook:{PASSWORD}@")
        async with OpenAIServer(scripted) as provider:
            server = ServerProcess(
                server_folder,
                database_url=url,
                model="openai:x",
                model_base_url=provider.base_url,
                model_api_key=KEY,
                log_level=level,
            )
            await asyncio.to_thread(server.start)
            try:
                async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=False) as http:
                    await _say_secrets(Client(http))
                    await asyncio.to_thread(postgres.stop)
                    lost = await http.post("/v1/messages/stream", json=_said("hello"))
                    assert lost.status_code == 503, lost.text
                    assert not [secret for secret in SECRETS if secret in lost.text]
            finally:
                await asyncio.to_thread(server.stop)
    log = server.log.read_text()
    assert (level in {"debug", "info"}) == ('"event": "stream"' in log)
    assert not [secret for secret in SECRETS if secret in log]


def _said(words: str) -> dict[str, Any]:
    return {"message": {"type": "user_message", "content": f"{words} {SAID}", "agent": "coder"}}


async def _say_secrets(client: Client) -> None:
    outcomes = []
    for words in ("hello", "bad", "key", "cut", "malformed", "read"):
        async with client.stream(_said(words)) as response:
            outcomes.append((await response.aread()).decode().count("event: turn.committed"))
    assert outcomes == [1, 0, 0, 0, 1, 1]
    asked = await client.send(_said("read")["message"], conversation_id="c")
    call_id = asked[-1].data["waiting_for"]["calls"][0]
    await client.send({"type": "tool_result", "call_id": call_id, "result": RESULT}, conversation_id="c")
    refused = await client.http.post(
        "/v1/messages/stream",
        json={
            "conversation_id": "c",
            "message": {"type": "tool_result", "call_id": call_id, "result": f"other {RESULT}"},
        },
    )
    assert refused.status_code == 409
    broken = await client.http.post("/v1/messages/stream", content=f'{{"message": "{SAID}'.encode())
    assert broken.status_code == 400


def test_what_broke_is_logged_by_kind_and_place_without_its_words() -> None:
    program = f"""
import asyncio, logging, structlog
from api import log_output
log_output.configure("debug")
def broken():
    try:
        raise KeyError({SAID!r})
    except KeyError as error:
        raise ValueError({KEY!r}) from error
async def main():
    log_output.log_loop_errors(asyncio.get_running_loop())
    async def lost(): broken()
    task = asyncio.create_task(lost())
    await asyncio.sleep(0.01)
    del task
    asyncio.get_running_loop().call_soon(broken)
    await asyncio.sleep(0.01)
try:
    broken()
except ValueError as error:
    structlog.get_logger("minutebook.turn").error("turn_broke", exc_info=error)
    logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    written = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in written] == [
        "turn_broke",
        "Exception in ASGI application",
        "loop_error",
        "loop_error",
    ]
    assert all(line["exception"] == ["builtins.ValueError", "builtins.KeyError"] for line in written)
    assert all(line["at"][-1].endswith(" broken") for line in written)
    assert SAID not in done.stderr
    assert KEY not in done.stderr
