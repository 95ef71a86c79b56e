"""Signals at any time of a server's life: it ends in order, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.command_line import DATA, environment, servers_over

OFTEN_S = 0.02  # how often somebody impatient asks
SAID = "serves on  "


class Served:
    """A server as a process, its output in a file, its temporary files in a folder of their own."""

    def __init__(
        self, folder: Path, *, command: Sequence[str] = ("serve", "--port", "0"), **settings: object
    ) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api", *command],
                cwd=folder, stdout=log, stderr=log, start_new_session=True,
                env={**environment(settings), "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        return self.said.partition(SAID)[2].split()[0]

    def wait_for(self, sign: Callable[[Path], bool]) -> None:
        """Wait until something is to be seen in the folder."""
        deadline = time.monotonic() + 120
        while not sign(self.folder):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.005)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, again and again until it has; return its exit code."""
        deadline = time.monotonic() + 120
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.said}"
            self.process.send_signal(number)
            time.sleep(OFTEN_S)
        return int(self.process.returncode)


@pytest.fixture
def serve(server_folder: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(workers: int = 1, demo_delay_s: float = 0.0) -> Served:
        started.append(Served(server_folder, workers=workers, demo_delay_s=demo_delay_s))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def is_making_data(folder: Path) -> bool:
    return any((folder / DATA).glob("pg.new-*"))


def is_starting_postgresql(folder: Path) -> bool:
    return (folder / DATA / "pg" / "postmaster.pid").exists()


def is_opening(folder: Path) -> bool:
    """Whether it has come to its keys, which is after its tables and before it serves."""
    return (folder / DATA / "keys").exists() or is_serving(folder)


def is_serving(folder: Path) -> bool:
    return SAID in (folder / "server.log").read_text()


def left_by(served: Served) -> list[object]:
    return [*servers_over(served.folder), *served.temporary.iterdir()]


def assert_ends_in_order(served: Served, number: signal.Signals = signal.SIGTERM) -> None:
    assert served.end(number) == 0, served.said
    assert "Minutebook has stopped" in served.said
    assert "Traceback" not in served.said
    assert left_by(served) == []


@pytest.mark.parametrize("stage", [is_making_data, is_starting_postgresql, is_opening])
def test_a_server_that_is_told_to_end_while_it_starts_ends_in_order_however_often_it_is_told(
    serve: Callable[..., Served], stage: Callable[[Path], bool]
) -> None:
    served = serve()
    served.wait_for(stage)
    assert_ends_in_order(served)


@pytest.mark.parametrize("stage", [is_opening, is_serving])
def test_workers_that_start_or_serve_end_in_order_however_often_their_parent_is_told(
    serve: Callable[..., Served], stage: Callable[[Path], bool]
) -> None:
    served = serve(workers=2)
    served.wait_for(stage)
    assert_ends_in_order(served, signal.SIGINT)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_told_again_and_again_while_it_closes_leaves_no_turn_and_no_frame_behind(
    serve: Callable[..., Served], workers: int
) -> None:
    served = serve(workers=workers, demo_delay_s=0.01)
    served.wait_for(is_serving)
    with in_the_middle_of(served):
        assert_ends_in_order(served)
    with EmbeddedPostgres(served.folder / DATA) as postgres, psycopg.connect(postgres.start()) as connection:
        assert connection.execute("SELECT state FROM turns").fetchall() == [("abandoned",)]
        assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (0,)


@contextmanager
def in_the_middle_of(served: Served) -> Iterator[None]:
    """Be in the middle of an answer that takes longer than anybody waits."""
    body = {"message": {"type": "user_message", "content": "slow 100"}}
    url = f"{served.url}/v1/messages/stream"
    with httpx.stream("POST", url, json=body, timeout=60, verify=False) as response:
        next(line for line in response.iter_lines() if line == "event: turn.delta")
        yield


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_leaves_no_postgresql_behind(
    server_folder: Path, number: signal.Signals, code: int
) -> None:
    command = Served(server_folder, command=["migrate"])
    command.wait_for(is_making_data)
    command.process.send_signal(number)
    assert command.process.wait(120) == code, command.said
    assert "Traceback" not in command.said
    assert left_by(command) == []
