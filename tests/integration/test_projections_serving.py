"""Read models of a server as users run it: rebuilt under load, killed under load, stopped and seen."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import psycopg
import pytest

from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.usage import UsageByDay
from tests.asking import query
from tests.crowd import Crowd
from tests.forking import run
from tests.projecting import held, is_at, reference, store, tables_left, talks, wait_until
from tests.serving import MASTER_KEY, REPOSITORY, ServerProcess, serving_reads

pytestmark = [
    pytest.mark.no_cover,  # the server is another process: its lines are not seen
    pytest.mark.may_block("the test itself asks the database; the servers are other processes"),
]

SLOWEST_AND_HEAD = "SELECT min(p.position), max(h.position) FROM projections p, log_head h"
HEAD_AND_CALL = "SELECT max(position), min(position) FILTER (WHERE type = 'agent.model_called') FROM log"


def environment_for(url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINUTEBOOK_")}
    ours = {"MINUTEBOOK_DATABASE_URL": url, "MINUTEBOOK_MASTER_KEY": MASTER_KEY}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **ours}


def command(folder: Path, url: str, *arguments: str) -> CompletedProcess[str]:
    return run(arguments, folder, environment_for(url))


@pytest.mark.timeout(300)
async def test_nobody_notices_three_rebuilds(database_url: str, server_folder: Path) -> None:
    """50 readers and 20 writers meet no failure, and no answer goes back in time."""
    head = store(database_url, talks(150))
    with ServerProcess(server_folder, database_url=database_url, demo_delay_s=0) as server:
        for model in READ_MODELS:
            wait_until(is_at(database_url, model, head), timeout_s=60)
        async with Crowd(server.url, readers=50, writers=20, pause_s=0.15) as crowd:
            await asyncio.sleep(1)
            for _ in range(3):
                done = await asyncio.to_thread(command, server_folder, database_url, "rebuild", "--json")
                assert done.returncode == 0, done.stdout + done.stderr
        head = query(database_url, "SELECT position FROM log_head")[0][0]
        for model in READ_MODELS:
            wait_until(is_at(database_url, model, head), timeout_s=30)
    assert crowd.seen.failures == []
    assert crowd.seen.steps_back == []
    assert crowd.seen.writes > 20
    assert crowd.seen.approvals > 20
    assert len(crowd.seen.reads) > 500
    for model in READ_MODELS:
        assert held(database_url, model) == reference(database_url, model)
    assert tables_left(database_url) == []


def total(url: str) -> int:
    """Return how much all read models have folded, taken together."""
    return int(query(url, "SELECT sum(position) FROM projections")[0][0])


@pytest.mark.timeout(300)
def test_a_server_killed_20_times_while_events_come_in_loses_and_repeats_nothing(
    database_url: str, server_folder: Path
) -> None:
    over = threading.Event()

    def write() -> None:
        first = 0
        while not over.wait(0.02):
            store(database_url, talks(2, first))
            first += 2

    writer = threading.Thread(target=write)
    writer.start()
    chance, kills = random.Random(3), list[bool]()
    try:
        for _ in range(20):
            with ServerProcess(server_folder, database_url=database_url) as server:
                reached = total(database_url)
                wait_until(lambda: total(database_url) > reached)  # noqa: B023 (it is over by then)
                over.wait(chance.uniform(0, 0.2))
                server.kill()
            slowest, head = query(database_url, SLOWEST_AND_HEAD)[0]
            kills.append(slowest < head)
        over.wait(0.5)  # more comes in while nobody follows
    finally:
        over.set()
        writer.join()
    assert sum(kills) >= 15, f"it was seldom killed at work: {kills}"
    head = query(database_url, "SELECT position FROM log_head")[0][0]
    with ServerProcess(server_folder, database_url=database_url):
        for model in READ_MODELS:
            wait_until(is_at(database_url, model, head), timeout_s=60)
    for model in READ_MODELS:
        assert held(database_url, model) == reference(database_url, model)


def stumble(_: UsageByDay, __: Any, event: Any) -> None:
    """Stand for a fold that cannot fold what a model's call has cost."""
    if event.type == "agent.model_called":
        raise KeyError("what is this")


async def test_a_read_model_that_has_stopped_is_named_where_an_operator_looks(
    database_url: str, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UsageByDay, "fold", stumble)
    usage, *others = sorted(READ_MODELS, key=lambda model: model.name != "usage")
    async with serving_reads(database_url) as server:
        await server.client.say("help")
        head, bad = query(database_url, HEAD_AND_CALL)[0]
        for model in others:
            wait_until(is_at(database_url, model, head))
        wait_until(lambda: bool(query(database_url, "SELECT 1 FROM projections WHERE state = 'failed'")))
        ready = await server.client.http.get("/health/ready")
        failed = {"usage": f"failed at position {bad}"}
        assert (ready.status_code, ready.json()["projections"]) == (200, failed)
        assert await told(server.client.http, 'projection_failed{projection="usage"} 1.0')
        assert await told(server.client.http, f'projection_failed_position{{projection="usage"}} {bad}.0')
        assert await told(
            server.client.http, f'projection_lag_events{{projection="usage"}} {head - bad + 1}.0'
        )
        assert await told(server.client.http, 'projection_lag_events{projection="transcript"} 0.0')
        assert await told(server.client.http, 'projection_failed_position{projection="transcript"} 0.0')
        listed = await asyncio.to_thread(command, server_folder, database_url, "projections", "--json")
    rows = {row["name"]: row for row in map(json.loads, listed.stdout.splitlines())}
    assert set(rows) == {model.name for model in READ_MODELS}
    assert (rows["usage"]["state"], rows["usage"]["failed_position"]) == ("failed", bad)
    assert (rows["usage"]["position"], rows["usage"]["error"]) == (bad - 1, "KeyError: 'what is this'")
    assert (rows["transcript"]["position"], rows["transcript"]["lag"]) == (head, 0)
    monkeypatch.undo()
    async with serving_reads(database_url) as server:
        wait_until(is_at(database_url, usage, head))
        assert await told(server.client.http, 'projection_failed_position{projection="usage"} 0.0')
        ready = await server.client.http.get("/health/ready")
        assert ready.json()["projections"] == "ok"


async def told(http: httpx.AsyncClient, line: str) -> bool:
    """Wait until the metrics say so."""
    for _ in range(50):
        if line in (await http.get("/metrics")).text.splitlines():
            return True
        await asyncio.sleep(0.1)
    return False


def test_the_command_rebuilds_compares_and_says_what_differs(database_url: str, server_folder: Path) -> None:
    head = store(database_url, talks(50))
    made = command(server_folder, database_url, "rebuild", "usage", "transcript", "--json")
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    assert [line["position"] for line in lines if line["phase"] == "swapped"] == [head, head]
    told = [line for line in lines if line["phase"] == "indexing"]
    assert [line["projection"] for line in told] == ["usage", "transcript"]
    for line in told:
        assert (line["position"], line["target"], line["lag"], line["eta_s"]) == (head, head, 0, 0.0)
        assert line["events_per_s"] > 0
    same = command(server_folder, database_url, "rebuild", "usage", "--verify")
    assert (same.returncode, "every row is as the log says" in same.stdout) == (0, True)
    query(database_url, "DELETE FROM read_usage WHERE conversation = 'c3'")
    query(database_url, "DELETE FROM read_entries WHERE conversation = 'c4'")
    other = command(server_folder, database_url, "rebuild", "usage", "transcript", "--verify")
    assert other.returncode == 3
    assert "'conversation': 'c3'" in other.stdout
    assert "is missing" in other.stdout
    assert "'conversation': 'c4'" in other.stdout, "the second one was not compared"
    unknown = command(server_folder, database_url, "rebuild", "nothing")
    assert (unknown.returncode, "There is no read model nothing" in unknown.stderr) == (2, True)


def test_ctrl_c_ends_a_rebuild_which_then_goes_on_where_it_was(
    database_url: str, server_folder: Path
) -> None:
    head = store(database_url, talks(30))
    made = command(server_folder, database_url, "rebuild", "transcript")
    assert made.returncode == 0, made.stderr
    environment = environment_for(database_url)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT FROM read_entries")  # the swap has to wait for it
        started = subprocess.Popen(
            [sys.executable, "-m", "api", "rebuild", "transcript"],
            env=environment, cwd=server_folder, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: bool(tables_left(database_url)))
        started.send_signal(signal.SIGINT)
        said, _ = started.communicate(timeout=30)
    assert (started.returncode, "run it again to go on" in said) == (130, True)
    generation = query(database_url, "SELECT DISTINCT generation FROM rebuilds")
    again = command(server_folder, database_url, "rebuild", "transcript")
    assert again.returncode == 0, again.stderr
    assert query(database_url, "SELECT last_value FROM projection_generations") == generation
    assert query(database_url, "SELECT position FROM projections WHERE name = 'transcript'") == [(head,)]
    assert tables_left(database_url) == []
