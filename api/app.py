"""The HTTP application: its routers, its errors, and what its handlers work with."""

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.types import Message

from api import (
    amendments,
    audit,
    audit_questions,
    console,
    erasing,
    errors,
    exports,
    feeds,
    health,
    origin,
    proofs,
    reads,
    schema,
    streams,
)
from application.agents import AgentRoster
from application.auditing import Audit
from application.erasing import Eraser
from application.exporting import ExportStreams
from application.live import FeedLog, LiveFeed
from application.ports import Limits, Metrics
from application.product import VERSION
from application.reading import Reads
from application.sealing import Seals
from application.turns import TurnService


@dataclass(frozen=True)
class Doors:
    """What the handlers reach, put there by `api.bootstrap`. Nothing in it belongs to a request."""

    turns: TurnService
    live: LiveFeed
    log: FeedLog
    metrics: Metrics
    limits: Limits
    readiness: Callable[[], Awaitable[dict[str, Any]]]
    exposition: Callable[[], Awaitable[tuple[bytes, str]]]
    reads: Reads
    audit: Audit
    exports: ExportStreams
    seals: Seals
    roster: AgentRoster
    model_name: str
    eraser: Eraser
    identity_header: str | None = None
    scopes_header: str | None = None
    allow_remote: bool = False
    node: str = ""


class Described(FastAPI):
    """FastAPI, whose `/openapi.json` holds the messages that a body refers to."""

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API."""
        described = super().openapi()
        described.setdefault("components", {}).setdefault("schemas", {}).update(streams.MESSAGES)
        return described


def create_app(doors: Doors) -> FastAPI:
    """Return the application, with its routes worked out.

    The first one of a process blocks for a moment: call it beside the event loop.
    """
    app = copy(_routes())  # the routes are everybody's, what they reach is this application's own
    app.state = State(vars(doors).copy())
    return app


@cache
def _routes() -> FastAPI:
    """Return an application that reaches nothing; the framework has worked its routes out by a request."""
    app = Described(
        title="Minutebook",
        summary="The minutes of conversations between people and agents.",
        description="Who said, asked, decided and did what, in which order, for good.",
        responses=errors.RESPONSES,
        version=VERSION,
    )
    errors.install(app)
    asking = (reads, amendments, erasing, audit, audit_questions, exports, proofs, schema)
    for door in (streams, feeds, *asking, health, origin, console):
        app.include_router(door.router)
    asyncio.run(_ask_for_nothing(app))
    return app


async def _ask_for_nothing(app: FastAPI) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/-",
        "raw_path": b"/-",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Message) -> None:
        """Nobody is told."""

    await app(scope, receive, send)
