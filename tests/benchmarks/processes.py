"""The processes of a benchmark: servers that are started and stopped, programs that print what they found."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent
PEERS_PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"


def environment() -> dict[str, str]:
    """Return our own environment without settings of the product."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINUTEBOOK_")}
    return {**kept, "PYTHONPATH": str(REPOSITORY)}


@contextmanager
def served(module: str, *arguments: str) -> Iterator[int]:
    """Run a server that prints its port, for the block. Raises RuntimeError with what it said."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    with TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment())
        assert process.stdout is not None
        try:
            port = process.stdout.readline()
            if not port:
                errors.seek(0)
                raise RuntimeError(f"{module} did not start:\n{errors.read().decode()}")
            yield int(port)
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def found_by(python: Path | str, module: str, *arguments: str) -> Any:
    """Run a program to its end and return the JSON it printed. Raises RuntimeError with what it said."""
    command = [str(python), "-m", f"tests.benchmarks.{module}", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(), cwd=REPOSITORY
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
