"""An export that is stopped at any moment goes on where it was, and needs no more memory for a longer log."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from infrastructure.exports.operating import check_export
from infrastructure.exports.selecting import WINDOW
from infrastructure.exports.state import State
from tests.command_line import environment
from tests.exported import FORMS, fill, fill_sealed, manifest_of
from tests.forking import Forked
from tests.serving import REPOSITORY

EVENTS = 3 * WINDOW + 10
# Exports so many events, then all, and says by how many KiB the process has grown meanwhile. (`getrusage`
# begins with what a process had before it became this program.)
GROWN = r"""
import re, sys
from pathlib import Path
from application.exporting import Selection
from infrastructure.exports.operating import write_export
from infrastructure.vault import Vault

def export(last, name):
    write_export(sys.argv[1], Vault(bytes(range(32))), Selection(last=last), sys.argv[2], Path(name))
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

small = export(int(sys.argv[3]), "small")
print(export(None, "large") - small)
"""


def started(folder: Path, url: str, form: str) -> tuple[Forked, IO[bytes]]:
    """Start an export; returns its process and what it complains about."""
    arguments = ["audit", "export", "--to", "log", "--format", form]
    said = TemporaryFile()  # noqa: SIM115 (for as long as somebody reads it)
    return Forked(arguments, folder, environment({"database_url": url}), said, said), said


def written_chunks(folder: Path) -> int:
    state = folder / "log.part" / "state"
    return state.read_bytes().count(b"\n") if state.exists() else 0


def ended(process: Forked, said: IO[bytes]) -> tuple[int, str]:
    """Wait until it ends by itself; returns its exit code and what it complained about."""
    code = process.wait(100)
    with said:
        said.seek(0)
        return code, said.read().decode()


def stopped(folder: Path, url: str, form: str, how: signal.Signals) -> int:
    """Let the export go on until one more chunk is on the disk, and stop it; returns its exit code."""
    before = max(written_chunks(folder), 1)
    process, said = started(folder, url, form)
    deadline = time.monotonic() + 60
    while process.poll() is None and written_chunks(folder) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    return ended(process, said)[0]


@pytest.mark.parametrize(
    ("form", "how"),
    [("ndjson", signal.SIGKILL), ("parquet", signal.SIGKILL), ("csv", signal.SIGINT)],
    ids=["killed", "killed, Parquet", "interrupted"],
)
def test_a_stopped_export_goes_on_and_is_the_same_in_the_end(
    form: str, how: signal.Signals, database_url: str, tmp_path: Path
) -> None:
    fill(database_url, EVENTS)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for folder in (broken, whole):
        folder.mkdir()
    codes = {stopped(broken, database_url, form, how) for _ in range(2)}
    stop = -how if how == signal.SIGKILL else 130
    assert {stop} <= codes <= {stop, 0}, "it was never stopped"  # quick as it is, one may end before we look
    assert ended(*started(broken, database_url, form))[0] == 0
    assert ended(*started(whole, database_url, form))[0] == 0
    assert (broken / "log").read_bytes() == (whole / "log").read_bytes()
    assert {**manifest_of(broken / "log"), "created_at": ""} == {
        **manifest_of(whole / "log"),
        "created_at": "",
    }
    assert check_export(broken / "log.manifest.json", lambda _, __: None).reason is None
    assert sorted(path.name for path in broken.iterdir()) == ["log", "log.manifest.json"]


def test_what_is_written_meanwhile_is_not_in_an_export_that_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    fill(database_url, EVENTS)
    stopped(tmp_path, database_url, "csv", signal.SIGKILL)
    fill(database_url, 50, EVENTS)
    assert ended(*started(tmp_path, database_url, "csv"))[0] == 0
    assert (manifest_of(tmp_path / "log")["last"], manifest_of(tmp_path / "log")["count"]) == (EVENTS, EVENTS)


def test_half_a_chunk_and_half_a_line_of_the_state_are_cut_off(database_url: str, tmp_path: Path) -> None:
    fill(database_url, EVENTS)
    stopped(tmp_path, database_url, "csv", signal.SIGKILL)
    with (tmp_path / "log.part" / "data").open("ab") as data:
        data.write(b"half a line")
    with (tmp_path / "log.part" / "state").open("ab") as state:
        state.write(b'{"first": 2')
    assert ended(*started(tmp_path, database_url, "csv"))[0] == 0
    assert check_export(tmp_path / "log.manifest.json", lambda _, __: None).reason is None
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert [int(line.split(b",")[0]) for line in lines[1:]] == list(range(1, EVENTS + 1))


def test_an_export_with_other_options_does_not_go_on(database_url: str, tmp_path: Path) -> None:
    fill(database_url, EVENTS)
    stopped(tmp_path, database_url, "csv", signal.SIGKILL)
    with State.held(tmp_path / "log.part"):  # as long as somebody writes there, nobody else does
        code, said = ended(*started(tmp_path, database_url, "csv"))
    assert (code, "another process is writing" in said) == (1, True)
    code, said = ended(*started(tmp_path, database_url, "ndjson"))
    assert (code, "was begun with other options" in said) == (1, True)


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
def test_five_times_the_events_take_no_more_memory(database_url: str, tmp_path: Path) -> None:
    """Sealed ones, of many conversations: their keys are none that an export has to keep."""
    fill_sealed(database_url, 5 * WINDOW, each=4)
    # What the Parquet library's own allocator keeps for later is many MiB more one time than the next.
    ours = {"PYTHONPATH": str(REPOSITORY), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    settings = {**environment({}), **ours}
    for form in FORMS:
        (folder := tmp_path / form).mkdir()
        code = [sys.executable, "-c", GROWN, database_url, form, str(WINDOW)]
        done = subprocess.run(
            code, cwd=folder, env=settings, capture_output=True, text=True, check=True, timeout=110
        )
        assert (folder / "large").stat().st_size > 4 * (folder / "small").stat().st_size
        assert int(done.stdout) < 30 * 1024
