"""`minutebook serve` as people use it: real processes, real signals, real exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.command_line import DATA, minutebook, servers_over
from tests.serving import ServerProcess


def postmaster(folder: Path) -> int:
    return int((folder / DATA / "pg" / "postmaster.pid").read_text().splitlines()[0])


def said_by(server: ServerProcess) -> str:
    return server.log.read_text()


def body(content: str, conversation_id: str | None = None) -> dict[str, Any]:
    where = {"conversation_id": conversation_id} if conversation_id else {}
    return {**where, "message": {"type": "user_message", "content": content}}


def say(server: ServerProcess, content: str, conversation_id: str | None = None) -> str:
    """Send a message and return the whole stream as text."""
    url = f"{server.url}/v1/messages/stream"
    return httpx.post(url, json=body(content, conversation_id), timeout=60, verify=False).text


@contextmanager
def in_the_middle_of(server: ServerProcess, content: str) -> Iterator[Iterator[str]]:
    """Send a message; give its lines once the answer has begun."""
    request = httpx.stream(
        "POST", f"{server.url}/v1/messages/stream", json=body(content), timeout=60, verify=False
    )
    with request as response:
        lines = response.iter_lines()
        while next(lines) != "event: turn.delta":
            pass
        yield lines


# --- serve ---------------------------------------------------------------------------------------


def test_serve_says_where_it_is_where_the_data_is_and_what_to_try(server_folder: Path) -> None:
    with ServerProcess(server_folder) as server:
        said = said_by(server)
        assert said.lstrip().startswith(f"Minutebook serves on  {server.url}")
        assert str((server_folder / DATA).resolve()) in said
        assert "Ctrl-C stops it" in said
        (line,) = re.findall(r"^\s+(curl .*\\\n.*)$", said, re.MULTILINE)
        if not shutil.which("curl"):
            pytest.skip("there is no curl to paste the line for")
        pasted = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True)
        assert "event: turn.committed" in pasted.stdout
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_and_its_postgresql(server_folder: Path, number: signal.Signals) -> None:
    with ServerProcess(server_folder) as server:
        say(server, "help")
        assert servers_over(server_folder)
        os.killpg(server.pid, number)  # as a terminal does: to everything it started
        assert server._process
        assert server._process.wait(30) == 0
    assert servers_over(server_folder) == []
    assert "Minutebook has stopped" in said_by(server)
    assert "Traceback" not in said_by(server)


def test_a_turn_in_the_middle_of_its_answer_may_finish(server_folder: Path) -> None:
    with ServerProcess(server_folder, demo_delay_s=0.05) as server:
        with in_the_middle_of(server, "long 30") as lines:
            assert server._process
            server._process.send_signal(signal.SIGINT)
            rest = list(lines)
        assert "event: turn.committed" in rest
        assert any("word30" in line for line in rest)
        assert server.stop() == 0
    assert servers_over(server_folder) == []


def test_a_turn_that_takes_longer_than_the_grace_is_abandoned_and_can_be_retried(server_folder: Path) -> None:
    with ServerProcess(server_folder, demo_delay_s=0.05, grace_s=0.3) as server:
        with in_the_middle_of(server, "long 1000") as lines:
            assert server._process
            server._process.send_signal(signal.SIGTERM)
            rest = "\n".join(lines)
        assert "event: turn.failed" in rest
        assert '"code":"turn_abandoned"' in rest
        assert server.stop() == 0
    listed = minutebook(server_folder, "turns", "--json", "--state", "abandoned")
    (turn,) = map(json.loads, listed.stdout.splitlines())
    with ServerProcess(server_folder, demo_delay_s=0) as server:
        retried = httpx.post(f"{server.url}/v1/turns/{turn['turn']}/retry", timeout=60, verify=False).text
        assert server.stop() == 0
    assert "event: turn.committed" in retried
    assert servers_over(server_folder) == []


def test_a_second_signal_does_not_wait_and_still_leaves_in_order(server_folder: Path) -> None:
    with ServerProcess(server_folder, demo_delay_s=0.05, grace_s=600) as server:
        with in_the_middle_of(server, "long 10000") as lines:
            assert server._process
            server._process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert server._process.poll() is None
            server._process.send_signal(signal.SIGINT)
            assert "event: turn.failed" in list(lines)
        assert server._process.wait(10) == 0
    assert servers_over(server_folder) == []


def test_after_a_kill_the_next_start_takes_the_database_over_and_ends_it(server_folder: Path) -> None:
    with ServerProcess(server_folder, lease_s=1) as server:
        say(server, "help", "kept")
        before = postmaster(server_folder)
        with in_the_middle_of(server, "slow 100"):
            server.kill()
    assert before in servers_over(server_folder)
    with ServerProcess(server_folder, lease_s=1) as again:
        assert postmaster(server_folder) == before
        assert "event: turn.committed" in say(again, "help", "kept")
        assert again.stop() == 0
    assert servers_over(server_folder) == []


def test_the_database_that_is_named_is_used(database_url: str, server_folder: Path) -> None:
    with ServerProcess(server_folder, database_url=database_url) as server:
        assert "the server of MINUTEBOOK_DATABASE_URL" in said_by(server)
        say(server, "help", "there")
        assert server.stop() == 0
    assert not (server_folder / DATA / "pg").exists(), "only the keys have their place there"
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT conversation FROM turns").fetchall() == [("there",)]
