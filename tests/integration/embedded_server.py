"""The embedded server, looked at and killed from outside."""

import os
import signal
import time
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg


def server_pid(folder: Path) -> int:
    """Return the process of the server over this folder."""
    return int((folder / "pg" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    """Whether the process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ask(url: str, query: LiteralString) -> object:
    """Return the first value of what is asked."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def kill_server(folder: Path) -> None:
    """Kill the server over this folder, and wait until it is gone."""
    pid = server_pid(folder)
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.01)
