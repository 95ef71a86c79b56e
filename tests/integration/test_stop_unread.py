"""A server that ends while its readers take nothing: it ends in its grace, and not in errors."""

import array
import asyncio
import fcntl
import json
import signal
import socket
import termios
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.serving import Client, ServerProcess, serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

LONG = "word " * 60_000
LONG_TURNS = 30  # more than the kernel's buffers take
FEEDS = ("/v1/feed?after=0", "/v1/conversations/c/feed?after=0")
GRACE_S = 30.0
SLOW = {"conversation_id": "slow", "message": {"type": "user_message", "content": "slow 100"}}


@pytest.fixture
async def full_database(database_url: str) -> str:
    """Return a database with more events than a reader who does not read is ever sent."""
    async with serving_reads(database_url) as server:
        for _ in range(LONG_TURNS):
            await server.client.say(LONG, conversation_id="c")
    return database_url


@asynccontextmanager
async def unread(url: str, paths: Sequence[str]) -> AsyncIterator[None]:
    """Open streams with small windows, until nothing more comes, and read no more than their first line."""
    host, _, port = url.removeprefix("http://").partition(":")
    with ExitStack() as opened:
        for path in paths:
            sock = opened.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            sock.setblocking(False)
            async with asyncio.timeout(60):
                assert await asyncio.get_running_loop().sock_recv(sock, 12) == b"HTTP/1.1 200"
                await until_still(sock)
        yield


async def until_still(sock: socket.socket) -> None:
    """Wait until what the kernel holds for us grows no more."""
    waiting, before = array.array("i", [0]), 0
    while True:
        await asyncio.sleep(0.3)
        fcntl.ioctl(sock, termios.FIONREAD, waiting)
        if waiting[0] and waiting[0] == before:
            return
        before = waiting[0]


@asynccontextmanager
async def served(folder: Path, database_url: str, grace_s: float) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(folder, database_url=database_url, grace_s=grace_s)
    try:
        yield await asyncio.to_thread(process.start)
    finally:
        await asyncio.to_thread(process.__exit__)


async def stopped(process: ServerProcess, *signals: signal.Signals) -> float:
    """Send the signals to a server, a moment apart; returns the seconds until it has ended, in order."""
    began = time.monotonic()
    for number in signals:
        process.send(number)
        await asyncio.sleep(0.3)
    assert await asyncio.to_thread(process.stop, 60) == 0
    return time.monotonic() - began


def errors_of(process: ServerProcess) -> list[str]:
    lines = [line for line in process.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if json.loads(line)["level"] not in ("info", "warning")]


async def test_a_server_ends_in_its_grace_and_without_errors_while_its_readers_take_nothing(
    full_database: str, tmp_path: Path
) -> None:
    async with served(tmp_path, full_database, GRACE_S) as process, unread(process.url, FEEDS * 3):
        assert await stopped(process) < GRACE_S
    assert errors_of(process) == []


async def test_a_server_that_is_told_twice_to_end_cuts_off_its_readers_without_errors(
    full_database: str, tmp_path: Path
) -> None:
    async with served(tmp_path, full_database, GRACE_S) as process, unread(process.url, FEEDS):
        await stopped(process, signal.SIGTERM, signal.SIGTERM)
    assert errors_of(process) == []


async def test_a_turn_that_takes_all_of_the_grace_leaves_its_readers_enough_to_end_without_errors(
    full_database: str, tmp_path: Path
) -> None:
    async with served(tmp_path, full_database, 0.5) as process:
        client = httpx.AsyncClient(base_url=process.url, timeout=60, verify=False)
        async with client, unread(process.url, FEEDS), Client(client).stream(SLOW) as response:
            await stopped(process)
            assert '"code":"turn_abandoned"' in (await response.aread()).decode()
    assert errors_of(process) == []
