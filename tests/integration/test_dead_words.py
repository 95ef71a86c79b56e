"""What a process said before it died is not said again to those who watch."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx

from tests.asking import query
from tests.projecting import wait_until
from tests.serving import ServerProcess


def _say(server: ServerProcess, turn_id: str, content: str) -> None:
    message = {"type": "user_message", "content": content}
    with suppress(httpx.HTTPError):  # one of the servers dies while it speaks
        body = {"conversation_id": "c", "turn_id": turn_id, "message": message}
        httpx.post(f"{server.url}/v1/messages/stream", json=body, timeout=30, verify=False)


def _feed_until(server: ServerProcess, text: str) -> list[str]:
    lines: list[str] = []
    feed = httpx.stream("GET", f"{server.url}/v1/conversations/c/feed", timeout=20, verify=False)
    with ThreadPoolExecutor(1) as pool, feed as answer:
        pool.submit(_say, server, "new", "hello")
        for line in answer.iter_lines():
            lines.append(line)
            if text in line:
                return lines
    raise AssertionError("the feed ended")


def test_a_dead_servers_words_do_not_come_back_with_the_next_server(
    database_url: str, tmp_path: Path
) -> None:
    house = ServerProcess(tmp_path, database_url=database_url, demo_delay_s=0.02, lease_s=1)
    with house as server, ThreadPoolExecutor(1) as pool:
        _say(server, "first", "help")
        pool.submit(_say, server, "dead", "long 2000")
        wait_until(lambda: bool(query(database_url, "SELECT id FROM chunks WHERE turn = 'dead'")))
        server.kill()
        server.start()
        deadline = time.monotonic() + 30
        while httpx.get(f"{server.url}/v1/turns/dead", verify=False).json()["state"] == "running":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.stop()
        server.start()
        lines = _feed_until(server, "conversation.assistant_message_sent")
    assert not [line for line in lines if '"turn_id":"dead"' in line]
