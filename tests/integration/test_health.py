"""Alive, ready, and what a shutdown says."""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import psycopg
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.command_line import servers_over
from tests.integration.waiting import eventually
from tests.serving import Client, ServerProcess

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not


@pytest.mark.may_block("it starts and stops servers and waits for them")
async def test_ready_says_when_the_database_is_gone_and_recovers_by_itself(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder / "store") as postgres:
        server = ServerProcess(server_folder, database_url=postgres.start(), demo_delay_s=0)
        with server:
            async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=False) as http:
                ready = await http.get("/health/ready")
                assert ready.json() | {"status": "ok", "server": "ok", "database": "ok"} == ready.json()
                await Client(http).say("help")
                postgres.stop()
                began = time.monotonic()
                gone = await http.get("/health/ready")
                assert time.monotonic() - began < 3
                assert gone.status_code == 503
                assert gone.json() | {"status": "unavailable", "database": "unavailable"} == gone.json()
                assert (await http.get("/health/live")).status_code == 200
                postgres.start()
                await eventually(lambda: _is_ready(http), 20)
                assert (await Client(http).say("help"))[-1].type == "turn.committed"
            assert server.stop() == 0


@pytest.mark.may_block("it starts and stops servers and waits for them")
async def test_a_database_that_is_frozen_is_not_waited_for(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder / "store") as postgres:
        server = ServerProcess(server_folder, database_url=postgres.start())
        with server:
            frozen = servers_over(server_folder)
            async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=False) as http:
                try:
                    _signal_all(frozen, signal.SIGSTOP)
                    for _ in range(3):
                        began = time.monotonic()
                        assert not await _is_ready(http)
                        assert time.monotonic() - began < 3.5
                    assert (await http.get("/health/live")).status_code == 200
                finally:
                    _signal_all(frozen, signal.SIGCONT)
                await eventually(lambda: _is_ready(http), 20)
            assert server.stop() == 0


def _signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


async def _is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/health/ready")).status_code == 200


async def _is_shutting_down(http: httpx.AsyncClient) -> bool:
    ready = await http.get("/health/ready")
    return (ready.status_code, ready.json()["server"]) == (503, "shutting_down")


async def _runs(http: httpx.AsyncClient, turn_id: str) -> bool:
    turn = await http.get(f"/v1/turns/{turn_id}")
    return turn.status_code == 200 and turn.json()["state"] == "running"


@pytest.mark.may_block("it starts a server and waits for it")
async def test_while_shutting_down_nothing_new_begins_and_what_runs_ends(
    database_url: str, server_folder: Path
) -> None:
    with ServerProcess(server_folder, database_url=database_url, demo_delay_s=0.05) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=False) as http:
            running = asyncio.create_task(Client(http).say("long 80", conversation_id="last", turn_id="t"))
            await eventually(lambda: _runs(http, "t"), 20)
            assert server._process
            server._process.send_signal(signal.SIGTERM)
            await eventually(lambda: _is_shutting_down(http), 3)
            new = await http.post(
                "/v1/messages/stream", json={"message": {"type": "user_message", "content": "hello"}}
            )
            assert (new.status_code, new.json()["code"]) == (503, "shutting_down")
            assert new.headers["retry-after"] == "2"
            frames = await running
        assert frames[-1].type == "turn.committed"
        assert server.stop() == 0
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT conversation, state FROM turns").fetchall() == [
            ("last", "committed")
        ]
