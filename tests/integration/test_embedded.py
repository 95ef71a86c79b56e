"""The embedded PostgreSQL: shared by processes, taken over after a kill, stopped by the last one."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.integration.embedded_server import ask, is_alive, server_pid

REPOSITORY = Path(__file__).parents[2]
USE_UNTIL_TOLD = """
import sys
from pathlib import Path
from infrastructure.postgres.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.start(), flush=True)
    sys.stdin.readline()
"""


class OtherProcess:
    """Another process that uses the server of a folder."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", USE_UNTIL_TOLD, str(folder)]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def url(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0

    def die(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def other_process(server_folder: Path) -> Iterator[Callable[[], OtherProcess]]:
    others: list[OtherProcess] = []

    def start() -> OtherProcess:
        others.append(OtherProcess(server_folder))
        return others[-1]

    yield start
    for other in others:
        if other.process.poll() is None:
            other.die()
        for pipe in (other.process.stdin, other.process.stdout):
            if pipe:
                pipe.close()


def test_a_restart_keeps_the_data(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        ask(server.start(), "create table kept as select 42 as answer")
    with EmbeddedPostgres(server_folder) as server:
        assert ask(server.start(), "select answer from kept") == 42


def test_a_clean_stop_ends_the_server(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder)
    server.start()
    pid = server_pid(server_folder)
    assert is_alive(pid)
    server.stop()
    assert not is_alive(pid)
    server.stop()


def test_starting_twice_gives_the_same_server(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        url, pid = server.start(), server_pid(server_folder)
        assert server.start() == url
        assert server_pid(server_folder) == pid


def test_the_server_is_durable_and_listens_to_no_network(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder) as server:
        url = server.start()
        shown = [
            ask(url, "show fsync"),
            ask(url, "show synchronous_commit"),
            ask(url, "show full_page_writes"),
            ask(url, "show wal_level"),
            ask(url, "show data_checksums"),
            ask(url, "show listen_addresses"),
        ]
        assert shown == ["on", "on", "on", "replica", "on", ""]
        assert not psutil.Process(server_pid(server_folder)).net_connections("tcp")


def test_settings_go_before_our_own(server_folder: Path) -> None:
    with EmbeddedPostgres(
        server_folder, settings={"max_connections": "17", "cluster_name": "it's ours"}
    ) as server:
        assert ask(server.start(), "show max_connections") == "17"
        assert ask(server.start(), "show cluster_name") == "it's ours"


def test_two_processes_share_it_and_the_last_one_ends_it(
    server_folder: Path, other_process: Callable[[], OtherProcess]
) -> None:
    other = other_process()
    url = other.url()
    server = EmbeddedPostgres(server_folder)
    assert server.start() == url
    pid = server_pid(server_folder)
    other.leave()
    assert ask(url, "select 1") == 1
    server.stop()
    assert not is_alive(pid)


def test_after_a_kill_the_next_one_takes_over_and_ends_it(
    server_folder: Path, other_process: Callable[[], OtherProcess]
) -> None:
    other = other_process()
    url = other.url()
    pid = server_pid(server_folder)
    other.die()
    assert is_alive(pid)
    with EmbeddedPostgres(server_folder) as server:
        assert server.start() == url
        assert server_pid(server_folder) == pid
    assert not is_alive(pid)


def test_processes_that_start_at_the_same_instant_get_one_server(
    server_folder: Path, other_process: Callable[[], OtherProcess]
) -> None:
    others = [other_process() for _ in range(4)]
    assert len({other.url() for other in others}) == 1
    pid = server_pid(server_folder)
    for other in others:
        assert is_alive(pid)
        other.leave()
    assert not is_alive(pid)


def test_the_path_of_the_data_may_be_long_and_odd(server_folder: Path) -> None:
    folder = server_folder / ("it's a long one, 100% of it $HOME " + "x" * 90) / ("ü" * 60)
    with EmbeddedPostgres(folder) as server:
        assert ask(server.start(), "select 1") == 1


def test_the_server_gets_none_of_our_environment(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY_OF_OURS", "secret")
    monkeypatch.setenv("PGPORT", "1")
    with EmbeddedPostgres(server_folder) as server:
        assert ask(server.start(), "select 1") == 1
        assert "A_KEY_OF_OURS" not in psutil.Process(server_pid(server_folder)).environ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_folders_above_the_data_get_search_permission_and_no_more(server_folder: Path) -> None:
    private = server_folder / "private"
    private.mkdir(mode=0o700)
    with EmbeddedPostgres(private / "data"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o701
        assert stat.S_IMODE((private / "data" / "pg").stat().st_mode) == 0o700
        assert stat.S_IMODE((private / "data" / "socket").stat().st_mode) == 0o700


def test_data_of_another_major_version_is_refused(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder):
        pass
    (server_folder / "pg" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match=r"is of PostgreSQL 14 and the embedded server is \d+"):
        EmbeddedPostgres(server_folder).start()


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(server_folder: Path) -> None:
    (server_folder / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="cannot be written: Not a directory"):
        EmbeddedPostgres(server_folder / "file" / "data").start()


def test_a_folder_whose_name_is_no_text_is_one_clear_sentence(server_folder: Path) -> None:
    folder = server_folder / os.fsdecode(b"caf\xe9")
    with pytest.raises(EmbeddedPostgresError, match="caf\ufffd has a name that is not UTF-8"):
        EmbeddedPostgres(folder).start()
    assert not folder.exists()


def test_a_pid_file_that_is_no_text_is_of_no_server(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder):
        pass
    (server_folder / "pg" / "postmaster.pid").write_bytes(b"\xff\xfe\0\n/\xe9\n")
    with EmbeddedPostgres(server_folder) as server:
        assert ask(server.start(), "select 1") == 1


def test_a_version_that_is_no_text_is_refused(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder):
        pass
    (server_folder / "pg" / "PG_VERSION").write_bytes(b"\xff\n")
    with pytest.raises(EmbeddedPostgresError, match="is of PostgreSQL \ufffd and the embedded server"):
        EmbeddedPostgres(server_folder).start()


def test_files_that_are_no_database_are_left_alone(server_folder: Path) -> None:
    (server_folder / "pg").mkdir()
    (server_folder / "pg" / "letter.txt").write_text("dear")
    with pytest.raises(EmbeddedPostgresError, match="no PostgreSQL data"):
        EmbeddedPostgres(server_folder).start()
    assert (server_folder / "pg" / "letter.txt").read_text() == "dear"


def test_a_server_that_does_not_start_says_where_its_log_is(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder, settings={"shared_buffers": "a lot"})
    with pytest.raises(
        EmbeddedPostgresError, match=r'postgres\.log ends with: .*invalid value.*"shared_buffers"'
    ):
        server.start()


def test_after_a_start_that_failed_the_next_one_may_work(server_folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError):
        EmbeddedPostgres(server_folder, settings={"no_such_setting": "1"}).start()
    with EmbeddedPostgres(server_folder) as server:
        assert ask(server.start(), "select 1") == 1
