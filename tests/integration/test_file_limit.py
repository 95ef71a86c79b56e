"""A server takes as many connections as the system lets it, whatever limit it was started under."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.command_line import environment

REPOSITORY = Path(__file__).parents[2]
UNDER_A_LOW_LIMIT = """
import os, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
os.execv(sys.executable, [sys.executable, "-m", "api", "serve", "--port", "0"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are read on Linux")
def test_a_server_raises_its_limit_of_open_files(database_url: str, tmp_path: Path) -> None:
    settings = environment({"database_url": database_url, "keys": tmp_path / "keys"})
    command = [sys.executable, "-c", UNDER_A_LOW_LIMIT]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**settings, "PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout
        while b"serves on" not in (line := server.stdout.readline()):
            assert line, "the server did not start"
        soft, hard = psutil.Process(server.pid).rlimit(resource.RLIMIT_NOFILE)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert soft == min(hard, 1_048_576) if hard != resource.RLIM_INFINITY else soft == 1_048_576
