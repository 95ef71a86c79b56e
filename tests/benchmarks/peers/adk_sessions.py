"""A conversation in Google ADK's DatabaseSessionService.

Started as `python -m tests.benchmarks.peers.adk_sessions URL TURNS WARM_UP IN OUT`, in an environment of
its own. A turn appends the person's event and the model's; the session stays in memory meanwhile, which
spares it a load a turn. Prints JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import psycopg
from google.adk.events.event import Event
from google.adk.sessions.database_session_service import DatabaseSessionService
from google.adk.sessions.session import Session
from google.genai import types
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

from tests.benchmarks.stored import growth, stored_bytes
from tests.benchmarks.texts import texts

APP = "minutes"


def event(author: str, role: str, text: str, invocation: str) -> Event:
    content = types.Content(role=role, parts=[types.Part(text=text)])
    return Event(author=author, content=content, invocation_id=invocation)


async def conversed(
    service: DatabaseSessionService, turns: int, said: Iterator[str], answers: Iterator[str]
) -> tuple[Session, list[float]]:
    """Take the turns; returns the session and the seconds of each turn."""
    session = await service.create_session(app_name=APP, user_id="anna")
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        invocation = f"e-{uuid4()}"
        await service.append_event(session, event("user", "user", next(said), invocation))
        await service.append_event(session, event("assistant", "model", next(answers), invocation))
        times.append(time.perf_counter() - started)
    return session, times


async def main(url: str, turns: int, warm_up: int, said: int, answer: int) -> None:
    words = (texts(said, seed=1), texts(answer, seed=2))
    parts = conninfo_to_dict(url)
    where = URL.create(
        "postgresql+asyncpg",
        str(parts["user"]),
        database=str(parts["dbname"]),
        query={"host": str(parts["host"])},
    )
    service = DatabaseSessionService(where.render_as_string(hide_password=False))
    await conversed(service, warm_up, *words)
    with psycopg.connect(url, autocommit=True) as connection:
        before = stored_bytes(connection)
        session, times = await conversed(service, turns, *words)
        after = stored_bytes(connection)
    started = time.perf_counter()
    whole = await service.get_session(app_name=APP, user_id="anna", session_id=session.id)
    load_s = time.perf_counter() - started
    assert whole is not None
    assert len(whole.events) == 2 * turns
    print(json.dumps({"times": times, "stored": growth(before, after), "load_s": load_s}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
