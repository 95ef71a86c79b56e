"""The embedded PostgreSQL after kills, with what they leave behind, and when somebody presses Ctrl-C."""

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.system_user import server_user
from tests.integration.embedded_server import ask, is_alive, kill_server, server_pid


def test_a_killed_server_comes_back_with_all_that_was_committed(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        ask(server.start(), "create table kept as select 42 as answer")
        kill_server(server_folder)
        assert ask(server.start(), "select answer from kept") == 42


def test_a_server_whose_backends_outlive_it_is_waited_for(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        busy = psycopg.connect(server.start())
        pid = busy.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        kill_server(server_folder)
        release = threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))
        release.start()
        assert ask(server.start(), "select 1") == 1
        assert not is_alive(pid)
        release.join()
        busy.close()


def test_a_stale_pid_file_does_not_make_another_program_a_server(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder)
    server.start()
    kill_server(server_folder)
    user = server_user(server_folder / "pg")
    with subprocess.Popen(["/bin/sleep", "600"], **user.process_options) as stranger:
        try:
            for name in ("pg/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
                lines = (server_folder / name).read_text().splitlines()
                (server_folder / name).write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
            with server:
                assert ask(server.start(), "select 1") == 1
                assert server_pid(server_folder) != stranger.pid
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_an_unreadable_pid_file_does_not_hold_a_start_up(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        server.start()
        pid_file = server_folder / "pg" / "postmaster.pid"
    pid_file.write_text("")
    with EmbeddedPostgres(server_folder) as server:
        assert ask(server.start(), "select 1") == 1


def test_a_first_start_that_was_killed_leaves_nothing_in_the_way(server_folder: Path) -> None:
    (server_folder / "pg.new-killed").mkdir()
    (server_folder / "pg.new-killed" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(server_folder) as server:
        assert ask(server.start(), "select 1") == 1
    assert not list(server_folder.glob("pg.new-*"))


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder):
        assert os.getsid(server_pid(server_folder)) != os.getsid(0)


@contextmanager
def interrupted(folder: Path) -> Iterator[None]:
    """Press Ctrl-C once the block is at its start or stop, which it cannot end before that."""
    usual = signal.getsignal(signal.SIGINT)

    def press() -> None:
        with lock:
            while signal.getsignal(signal.SIGINT) is usual:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

    with (folder / "start.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pressing = threading.Thread(target=press)
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            yield
        pressing.join()


def test_ctrl_c_waits_until_the_server_has_started_or_stopped(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder)
    with interrupted(server_folder):
        server.start()
    assert is_alive(server_pid(server_folder))
    with interrupted(server_folder):
        server.stop()
    assert not (server_folder / "pg" / "postmaster.pid").exists()


def test_ctrl_c_while_it_is_entered_leaves_no_server(server_folder: Path) -> None:
    entered = []
    with interrupted(server_folder), EmbeddedPostgres(server_folder) as server:
        entered.append(server)
    assert not entered
    assert (server_folder / "pg" / "PG_VERSION").exists()
    assert not (server_folder / "pg" / "postmaster.pid").exists()
