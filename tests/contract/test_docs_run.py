"""The documentation runs: its sessions in a real shell against a real server, its programs as programs."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pages import blocks, missing_line, page, run_session, steps
from tests.serving import ServerProcess

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' sessions speak with curl")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def hold(session_of: str, folder: Path, port: int | None = None, **environment: str) -> None:
    """Run a page's session and hold what it says against the page; `port` is that of a running server."""
    session = steps(page(session_of))
    said = run_session(session, folder, port or free_port(), environment)
    for step, words in zip(session, said, strict=True):
        lost = missing_line(step.expected, words)
        assert lost is None, f"{session_of}:{step.block.line}\nnot said: {lost}\nsaid:\n{words[-4000:]}"


@needs_curl
def test_the_first_conversation_goes_as_the_readme_says(server_folder: Path) -> None:
    port = free_port()
    server = ServerProcess(server_folder).start(port)
    try:
        hold("README.md", server_folder, port)
    finally:
        server.stop()


@needs_curl
def test_the_tutorial_goes_as_it_says(server_folder: Path) -> None:
    hold("tutorial.md", server_folder, MINUTEBOOK_LEASE_S="3")


@needs_curl
def test_the_sessions_of_the_how_to_go_as_they_say(server_folder: Path) -> None:
    hold("how-to.md", server_folder)


def example(name: str, folder: Path) -> Path:
    """Write the program of the how-to that is marked with this name into a file."""
    (block, *_) = blocks(page("how-to.md").partition(f"<!-- {name} -->")[2])
    (folder / name).write_text(block.text, encoding="utf-8")
    return folder / name


def wait_for_words(path: Path, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while "word9 " not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(("program", "name"), [(sys.executable, "client.py"), ("node", "client.mjs")])
def test_a_client_that_resumes_gets_its_answer_from_a_server_that_is_killed(
    program: str, name: str, server_folder: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not here")
    port = free_port()
    server = ServerProcess(server_folder, lease_s=2, demo_delay_s=0.02).start(port)
    said = server_folder / "said.txt"
    command = [program, str(example(name, server_folder)), "long 100"]
    environment = {**os.environ, "SERVER_URL": server.url, "NO_PROXY": "127.0.0.1"}
    with said.open("wb") as output:
        client = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_for_words(said)
        server.kill()
        server.start(port)
        assert client.wait(60) == 0, said.read_text()
    finally:
        client.kill()
        server.stop()
    assert said.read_text().splitlines()[-1].startswith("stored at ")
    assert said.read_text().endswith("word99 word100\n")
    assert said.read_text().count("word1 word2 ") == 3  # begun, begun again, and stored once
