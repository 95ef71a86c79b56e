"""One conversation of 1,000 turns, beside LangGraph's PostgresSaver and Google ADK's DatabaseSessionService.

200 bytes in, 600 bytes out, an instant model, one turn after the other. Ours goes over HTTP to a server of
its own process, stream and all; the peers are called in their process, as libraries are. All on one
PostgreSQL with every flush real, each in a database of its own. A conversation before it warms all up. The
rate at the start is that of the first 100 turns, the rate at the end that of the last 100. Stored is by
how much all tables and indexes have grown (pg_total_relation_size), after VACUUM and CHECKPOINT. Our figures
are the medians of three rounds, between which the peers take theirs; each of them has one.

Seconds lie between the start and the end, and the machine is not as fast in one as in the other. So ours
goes on by 100 turns afterwards, taking turns with a new conversation: `beside a new one` is the rate of these
turns by that of the new one's first 100.
"""

import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import open_pool
from tests.benchmarks.processes import PEERS_PYTHON, found_by, served
from tests.benchmarks.stored import growth, stored_bytes
from tests.benchmarks.talkers import connected, request
from tests.benchmarks.texts import texts
from tests.opened import vault

SAID, ANSWER = 200, 600  # bytes
WARM_UP = 150
PARTS = 10  # the first and the last of which are the start and the end
Found = dict[str, Any]
OURS = "Minutebook, over HTTP"


async def talked(port: int, turns: int, *conversations: str) -> list[list[float]]:
    """Have turns in each of these conversations, one after the other; returns the seconds of each turn."""
    talker, words = await connected(port), texts(SAID, seed=1)
    times: list[list[float]] = [[] for _ in conversations]
    for _ in range(turns):
        for conversation_id, its_times in zip(conversations, times, strict=True):
            asked = request(conversation_id, next(words))
            started = time.perf_counter()
            await talker.ask(asked)
            its_times.append(time.perf_counter() - started)
    talker.close()
    return times


async def loaded(url: str, turns: int) -> float:
    """Read the newest conversation whole, event by event; returns the seconds it took."""
    async with open_pool(url) as pool:
        log = PostgresLog(pool, MinutesMapper().to_logged, KeyStore(pool, vault()))
        head = await log.head()
        started = time.perf_counter()
        events = await log.read(head - 3 * turns - 1, head)
        took = time.perf_counter() - started
    said = [event for event in events if event.type == "conversation.assistant_message_sent"]
    assert len(said) == turns
    assert len({event.conversation_id for event in events}) == 1
    return took


def ours(url: str, turns: int, warm_up: int) -> Found:
    """Have our conversation."""
    schema.migrate(url)
    with served("house", url, str(ANSWER)) as port, psycopg.connect(url, autocommit=True) as connection:
        long, new = str(uuid4()), str(uuid4())
        asyncio.run(talked(port, warm_up, str(uuid4())))
        before = stored_bytes(connection)
        (times,) = asyncio.run(talked(port, turns, long))
        stored = growth(before, stored_bytes(connection))
        load_s = asyncio.run(loaded(url, turns))
        beside, its = asyncio.run(talked(port, max(1, turns // PARTS), long, new))
        return {"times": times, "stored": stored, "load_s": load_s, "held": rate(beside) / rate(its)}


def peer(module: str) -> Callable[[str, int, int], Found]:
    """Return what has a peer's conversation, in the peers' environment."""

    def found(url: str, turns: int, warm_up: int) -> Found:
        given = found_by(
            PEERS_PYTHON, f"peers.{module}", url, str(turns), str(warm_up), str(SAID), str(ANSWER)
        )
        assert isinstance(given, dict)
        return given

    return found


PEERS = {"LangGraph, PostgresSaver": peer("langgraph_saver"), "Google ADK, sessions": peer("adk_sessions")}


def race(server_url: str, turns: int, warm_up: int, rounds: int) -> dict[str, list[Found]]:
    """Let all have their conversation, round after round, each time in a database of its own."""
    contestants = {OURS: ours}
    if PEERS_PYTHON.exists():
        contestants |= PEERS
    else:
        print("    no .venv-bench: the peers are left out (make bench installs them)", file=sys.stderr)
    found: dict[str, list[Found]] = defaultdict(list)
    for number in range(rounds):
        for name, contestant in contestants.items():
            if number > 0 and name != OURS:
                continue
            database = f"round_{number}_{len(found[name])}_{list(contestants).index(name)}"
            with psycopg.connect(server_url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}".encode())
            url = server_url.replace("/minutebook?", f"/{database}?")
            found[name].append(contestant(url, turns, warm_up))
            print(f"    round {number + 1}/{rounds}: {name} is done", file=sys.stderr)
    return found


def rate(times: list[float]) -> float:
    return len(times) / sum(times)


def rows_of(found: dict[str, list[Found]], part: int) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: what, figure, ratio, target."""
    rows, ours_said = [], len(found[OURS][0]["times"]) * (SAID + ANSWER)
    stored = {name: median(sum(one["stored"].values()) for one in all_) for name, all_ in found.items()}
    ends: dict[str, float] = {}
    for name, all_ in found.items():
        start = median(rate(one["times"][:part]) for one in all_)
        ends[name] = median(rate(one["times"][-part:]) for one in all_)
        load = median(one["load_s"] for one in all_) * 1000
        figure = f"{start:,.0f} turns/s at the start, {ends[name]:,.0f} at the end, "
        rows.append((name, f"{figure}{stored[name] / 1e6:.1f} MB, load {load:,.0f} ms", "", ""))
    for name, all_ in found.items():
        kept = median(rate(one["times"][-part:]) / rate(one["times"][:part]) for one in all_)
        rows.append((f"{name}: rate at the end / start", "", f"{kept:.2f}", "at least 0.9" * (name == OURS)))
    held = median(one["held"] for one in found[OURS])
    rows.append((f"{OURS}: the same, beside a new one", "", f"{held:.2f}", "at least 0.9"))
    for name in found:
        ratio = f"{stored[name] / ours_said:.2f}"
        rows.append((f"{name}: stored / said", "", ratio, "at most 4" * (name == OURS)))
    others = [name for name in found if name != OURS]
    beside = [
        (f"rate at the end, ours / {name}", "", f"{ends[OURS] / ends[name]:.2f}", "") for name in others
    ]
    return rows + beside


def run(turns: int = 1000, rounds: int = 3) -> list[tuple[str, str, str, str]]:
    """Run on a server of its own; returns the table's rows: what, figure, ratio, target."""
    with (
        tempfile.TemporaryDirectory(prefix="minutebook-bench-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
    ):
        found = race(postgres.start(), turns, min(WARM_UP, turns), rounds)
    return rows_of(found, max(1, turns // PARTS))


if __name__ == "__main__":
    for what, figure, ratio, target in run():
        print(f"{what:52} {figure:70} {ratio:>7}  {target}")
