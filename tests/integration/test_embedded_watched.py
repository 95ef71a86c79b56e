"""The embedded PostgreSQL, killed under those who need it: a server starts it again, and loses nothing."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.watching import watched
from tests.command_line import DATA
from tests.integration.embedded_server import ask, kill_server, server_pid
from tests.integration.test_signals import Served, assert_ends_in_order, is_serving, serve

__all__ = ["serve"]  # a fixture
PATIENCE_S = 60


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_up(url: str) -> bool:
    try:
        return ask(url, "select 1") == 1
    except Exception:  # noqa: BLE001 (whatever is not there yet)
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_postgresql_that_is_killed_under_an_answer_comes_back_and_the_turn_is_committed(
    serve: Callable[..., Served], workers: int
) -> None:
    served = serve(workers=workers, demo_delay_s=0.05)
    served.wait_for(is_serving)
    before = server_pid(served.folder / DATA)
    body = {"message": {"type": "user_message", "content": "slow 2"}}
    with httpx.stream("POST", f"{served.url}/v1/messages/stream", json=body, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        next(line for line in lines if line == "event: turn.delta")
        kill_server(served.folder / DATA)
        ended = [line for line in lines if line in ("event: turn.committed", "event: turn.failed")]
    assert ended == ["event: turn.committed"], served.said
    assert server_pid(served.folder / DATA) != before
    eventually(lambda: "had died and was started again" in served.said)
    again = httpx.post(f"{served.url}/v1/messages/stream", json=body, timeout=PATIENCE_S)
    assert "event: turn.committed" in again.text
    assert_ends_in_order(served)


def test_it_comes_back_as_often_as_it_is_killed_and_with_all_that_was_committed(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        url = server.start()
        ask(url, "create table kept as select 42 as answer")
        with watched(server):
            for _ in range(3):
                kill_server(server_folder)
                eventually(lambda: is_up(url))
                assert ask(url, "select answer from kept") == 42


def test_a_server_that_runs_is_left_alone(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        server.start()
        pid = server_pid(server_folder)
        assert not server.revive()
        assert server_pid(server_folder) == pid


def test_data_that_is_gone_is_not_made_anew(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        server.start()
        kill_server(server_folder)
        shutil.move(server_folder / "pg", server_folder / "away")
        assert not server.revive()
        assert not (server_folder / "pg").exists()
        shutil.move(server_folder / "away", server_folder / "pg")
        assert server.revive()


def test_what_keeps_it_from_starting_is_said_and_it_is_tried_again(
    server_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with EmbeddedPostgres(server_folder) as server:
        url = server.start()
        with watched(server):
            configuration = server_folder / "pg" / "postgresql.conf"
            kept = configuration.read_text()
            configuration.write_text("what is this")
            kill_server(server_folder)
            eventually(lambda: "has died, next try in" in caplog.text)
            configuration.write_text(kept)
            eventually(lambda: is_up(url))
