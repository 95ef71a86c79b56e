"""A real server for tests: in this process on a socket of its own, or as a process that can be killed."""

import asyncio
import base64
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx

import api.app  # noqa: F401  (takes a moment to import: before a loop runs)
from api.bootstrap.house import House, open_house
from api.server import Server, listen
from api.settings import Settings
from application.language_model import LanguageModel
from tests.forking import Forked

REPOSITORY = Path(__file__).parent.parent
# Servers on one database seal with one key, and leave no key behind in the folder the tests run in.
SIGNING_KEY = base64.b64encode(b"the signing key of all the tests").decode()
# Every server of a test opens what the others have sealed.
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
TERMINAL = ("turn.committed", "turn.failed")


@dataclass(frozen=True)
class SseFrame:
    """One message of a stream, as a client parses it."""

    id: str | None
    type: str
    data: dict[str, Any]

    @property
    def is_final(self) -> bool:
        return self.type in TERMINAL


async def frames_of(response: httpx.Response) -> AsyncIterator[SseFrame]:
    """Parse a stream strictly: LF line ends, one `data:` line of JSON a message, comments skipped."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            assert name in ("id", "event", "data"), line
            assert name not in fields, f"two {name} lines in one message"
            fields[name] = value
        elif fields:
            yield SseFrame(fields.get("id"), fields["event"], json.loads(fields["data"]))
            fields = {}


feed_items = frames_of  # the same parser; a feed has no end


class Client:
    """A chat client over real HTTP."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    @asynccontextmanager
    async def stream(
        self, body: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Open the stream of one message."""
        async with self.http.stream("POST", "/v1/messages/stream", json=body, headers=headers) as response:
            yield response

    async def send(self, message: Mapping[str, Any], **where: Any) -> list[SseFrame]:
        """Send a message and read its stream to the end; fails the test when it is refused."""
        headers = where.pop("headers", None)
        async with self.stream({**where, "message": message}, headers) as response:
            if response.status_code != 200:
                raise Refused(response.status_code, json.loads(await response.aread()))
            return [frame async for frame in frames_of(response)]

    async def say(self, content: str, **where: Any) -> list[SseFrame]:
        """Send a user message."""
        return await self.send({"type": "user_message", "content": content}, **where)

    async def read_turn(self, turn_id: str, cursor: str | None = None) -> list[SseFrame]:
        """Read a turn's stream to its end, from a cursor on."""
        headers = {"Last-Event-ID": cursor} if cursor else None
        async with self.http.stream("GET", f"/v1/turns/{turn_id}/stream", headers=headers) as response:
            if response.status_code != 200:
                raise Refused(response.status_code, json.loads(await response.aread()))
            return [frame async for frame in frames_of(response)]


class Refused(AssertionError):  # noqa: N818 (it is not our error, it is the server's answer)
    """The server refused the message before it opened a stream."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem}")
        self.status = status
        self.problem = problem
        self.code = problem.get("code")


@dataclass(frozen=True)
class Serving:
    """A server in this process, and a client of it."""

    house: House
    url: str
    client: Client

    def as_subject(self, subject: str) -> dict[str, str]:
        """Return the headers of somebody else (needs `identity_header="X-Subject"`)."""
        return {"X-Subject": subject}


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Serving]:
    """Serve on a free port of loopback for the length of the block, with a demo model that does not pause.

    `answering` is asked instead of all models that the settings name. The read models do not follow the log
    unless `projections` is set: it costs as much as the turns, and most tests do not look.
    """
    answering: LanguageModel | None = settings.pop("answering", None)
    keys = {"master_key": MASTER_KEY, "signing_key": SIGNING_KEY}
    given = {"demo_delay_s": 0, "port": 0, "grace_s": 2, "projections": False, **keys, **settings}
    with tempfile.TemporaryDirectory(prefix="minutebook-test-") as data:  # where it notes its public key
        read = Settings(_env_file=None, database_url=database_url, **{"data": Path(data), **given})
        async with _served(read, database_url, answering) as server:
            yield server


@asynccontextmanager
async def _served(
    read: Settings, database_url: str, answering: LanguageModel | None
) -> AsyncIterator[Serving]:
    sock = listen(read.host, read.port)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with open_house(read, database_url, answering) as house:
        server = Server(house, read.grace_s)
        task = asyncio.create_task(server._serve(sockets=[sock]))
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
            while not server.started:  # noqa: ASYNC110 (uvicorn has a flag, no event)
                await asyncio.sleep(0.01)
            try:
                yield Serving(house, url, Client(http))
            finally:
                await house.running.close(0)
                server.should_exit = True
                await task


serving_reads = partial(serving, projections=True)  # as users serve, with read models that follow the log


class ServerProcess:
    """A server as users run it: a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path, **environment: Any) -> None:
        self._folder = folder
        environment = {"master_key": MASTER_KEY, "signing_key": SIGNING_KEY, **environment}
        self._environment = {f"MINUTEBOOK_{name.upper()}": str(value) for name, value in environment.items()}
        self._process: Forked | None = None
        self.url = ""
        self.log = folder / f"server-{id(self)}.log"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self, port: int = 0, timeout_s: float = 30.0) -> Self:
        """Start it and wait until it answers."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("MINUTEBOOK_")}
        env |= {"PYTHONPATH": str(REPOSITORY), **self._environment}
        with self.log.open("ab") as log:
            offset = log.tell()
            self._process = Forked(["serve", "--port", str(port)], self._folder, env, log, log)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            said = self.log.read_bytes()[offset:].decode(errors="replace")
            if found := re.search(r"serves on\s+(http://\S+)", said):
                self.url = found.group(1)
                if self._answers():
                    return self
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=2, verify=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it the hard way."""
        self._signal(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, and do not wait."""
        assert self._process
        self._process.send_signal(number)

    def stop(self, timeout_s: float = 30.0) -> int:
        """End it the kind way and return its exit code."""
        self._signal(signal.SIGTERM, timeout_s)
        assert self._process
        return int(self._process.wait())

    def _signal(self, number: int, timeout_s: float = 10.0) -> None:
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.poll() is None:
            self.kill()
