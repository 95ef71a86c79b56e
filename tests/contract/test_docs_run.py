"""The documentation runs: its sessions in a real shell against a real server, its programs as programs."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import missing_line, page, run_session, steps

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' sessions speak with curl")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def hold(session_of: str, folder: Path, **environment: str) -> None:
    """Run a page's session and hold what it says against the page."""
    session = steps(page(session_of))
    said = run_session(session, folder, free_port(), environment)
    for step, words in zip(session, said, strict=True):
        lost = missing_line(step.expected, words)
        assert lost is None, f"{session_of}:{step.block.line}\nnot said: {lost}\nsaid:\n{words[-4000:]}"


@needs_curl
def test_the_tutorial_goes_as_it_says(server_folder: Path) -> None:
    hold("tutorial.md", server_folder, MINUTEBOOK_LEASE_S="3")
