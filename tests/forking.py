"""The command line in processes of its own, each forked from one that has imported it already.

They are processes like any other, with a life, settings, files and an exit code of their own; what is saved
is the second of imports that hundreds of them would take. That `python -m api` itself starts is shown by the
tests that start it so.
"""

import atexit
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import IO, Any

FORKS = multiprocessing.get_context("forkserver")
# Not `api.cli` itself: its console takes its width from the environment when it is made.
FORKS.set_forkserver_preload(
    ["api.server", "api.app", "typer", "uvloop", "rich.table", "rich.progress"]
    + [
        f"api.cli_{name}"
        for name in ("audit", "audit_questions", "erase", "export", "import", "projections", "verify")
    ]
    + ["tests.projecting", "tests.frozen"]
)


class Forked:
    """A running command line, with what a `subprocess.Popen` of it would have."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        out: IO[Any],
        err: IO[Any],
    ) -> None:
        self.args = ["minutebook", *arguments]
        given = (self.args, str(folder), dict(environment), _File(out.fileno()), _File(err.fileno()))
        self._process = FORKS.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the number of the signal that ended it, negative; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; returns its exit code. Raises `TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float = 60
) -> "CompletedProcess[str]":
    """Run the command line to its end; raises `TimeoutExpired`, and leaves nothing running."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Forked(arguments, folder, environment, out, err)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
        return CompletedProcess(process.args, code, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


class _File:
    """An open file that goes along to another process, where it becomes its number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _number_of, (DupFd(self._number),)


def _number_of(file: Any) -> int:
    return int(file.detach())


def _run(arguments: list[str], folder: str, environment: dict[str, str], out: int, err: int) -> None:
    """Become the command line: what a start of it would have given it is what it gets."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None  # what an import has asked for already was the fork server's own
    sys.argv[:] = arguments
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115 (for its life)
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    from api.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()
