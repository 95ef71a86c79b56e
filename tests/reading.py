"""Somebody who reads over HTTP, and logs to read."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import psycopg

from infrastructure.postgres.batch import NewEvent
from infrastructure.projections import checkpoints
from infrastructure.projections.advancing import fold_page
from infrastructure.projections.checkpoints import LiveMark
from infrastructure.projections.connecting import connect
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.reading import read_page
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.writing import Store
from tests.opened import vault
from tests.projecting import happened, store
from tests.serving import Serving
from tests.unit.commands import Command

CALL = {"model_call_id": "call_0", "tool": "write_file", "agent": "coder", "rule": "writing"}


def asks(call_id: str, arguments: Any = None, *, requires_decision: bool = True) -> Command:
    """An agent asks for a tool."""
    call = {**CALL, "arguments": arguments or {}, "requires_decision": requires_decision}
    return ("request_call", (call_id, call))


def says(text: str, number: int = 1) -> Command:
    """A person says something."""
    return ("receive_user_message", (f"m{number}", text))


def of(person: str, conversation_id: str, *history: Command) -> list[NewEvent]:
    """Let a conversation of this person happen."""
    return [
        replace(event, actor=f"user:{person}") if event.actor == "user:ada" else event
        for event in happened(conversation_id, history)
    ]


async def happen(url: str, person: str, conversation_id: str, *history: Command) -> None:
    """Store what happened in a conversation of this person; the loop goes on meanwhile."""
    await asyncio.to_thread(lambda: store(url, of(person, conversation_id, *history)))


async def caught_up(url: str) -> None:
    """Let all read models get to the head of the log; the loop goes on meanwhile."""
    await asyncio.to_thread(catch_up, url)


def catch_up(url: str, *models: ReadModel) -> None:
    """Let the read models get to the head of the log, here and now."""
    with connect(url, "test") as connection:
        for model in models or READ_MODELS:
            position = checkpoints.make_sure(connection, model).position
            store, mark = Store(model), LiveMark(model.name, model.version)
            while (page := read_page(connection, position, vault=vault())).last > position:
                position = fold_page(connection, model, store, mark, page) or 0
                assert position == page.last


@dataclass(frozen=True)
class Reader:
    """Somebody who reads over HTTP."""

    http: httpx.AsyncClient
    headers: Mapping[str, str]

    async def get(self, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
        """Read; the test fails where the answer has another status."""
        answer = await self.ask(path, **query)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def ask(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> httpx.Response:
        """Read and return the whole answer."""
        return await self.http.get(f"/v1{path}", params=query, headers={**self.headers, **(headers or {})})

    async def patch(
        self, conversation_id: str, body: Any, status: int = 200, key: str | None = None
    ) -> dict[str, Any]:
        """Rename, archive or reopen."""
        headers = {**self.headers, **({"Idempotency-Key": key} if key else {})}
        answer = await self.http.patch(f"/v1/conversations/{conversation_id}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def all_pages(self, path: str, name: str, **query: Any) -> list[Any]:
        """Follow the cursors to the end."""
        found: list[Any] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await self.get(path, **query, **cursor)
            found += page[name]
            if page["next"] is None:
                return found
            cursor = {"cursor": page["next"]}


def reader(server: Serving, subject: str = "ada", scopes: str = "chat") -> Reader:
    """Return somebody who reads (as nobody in particular where the server asks nobody's name)."""
    return Reader(server.client.http, {"X-Subject": subject, "X-Scopes": scopes})


@contextmanager
def standing_still(url: str, projection: str) -> Iterator[None]:
    """Let a read model stay where it is for the length of the block: its checkpoint cannot be moved."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM projections WHERE name = %s FOR UPDATE", [projection])
        yield


NAMED: Mapping[str, Any] = {"identity_header": "X-Subject", "scopes_header": "X-Scopes"}
