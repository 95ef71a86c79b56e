"""The command line as people use it: a real process, with these settings and no others."""

import os
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil

from tests.forking import run
from tests.serving import MASTER_KEY, REPOSITORY

DATA = ".minutebook"


def minutebook(folder: Path, *arguments: str, **settings: object) -> CompletedProcess[str]:
    """Run the command line to its end, with these settings and no others."""
    return run(arguments, folder, environment(settings))


def environment(settings: dict[str, Any]) -> dict[str, str]:
    ours = re.compile("MINUTEBOOK_|OPENAI_|ANTHROPIC_")
    kept = {key: value for key, value in os.environ.items() if not ours.match(key)}
    given = {
        f"MINUTEBOOK_{name.upper()}": str(value)
        for name, value in {"master_key": MASTER_KEY, **settings}.items()
    }
    return {**kept, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", **given}


def servers_over(folder: Path) -> list[int]:
    """Return the pids of the PostgreSQL processes that run over data in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if "postgres" in process.name() and Path(process.cwd()).is_relative_to(folder.resolve()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
