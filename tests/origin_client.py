"""A client as the origin's IDE was, and what every stream of the origin's door promises."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.opened import opened_log
from tests.serving import Serving, serving

PLAN = "plan-approval-p"
DOOR = "/agent/message/stream"
FIELDS = {
    "type", "content", "token", "is_final", "session_id", "call_id", "tool_name", "arguments",
    "requires_approval", "approval_request_id", "plan_id", "plan_summary", "error", "metadata",
}  # fmt: skip
MEANS_SOMETHING = {"type", "is_final", "session_id"}  # set in every chunk

Chunk = dict[str, Any]


@asynccontextmanager
async def origin(url: str, **settings: Any) -> AsyncIterator["Origin"]:
    async with serving(url, **settings) as server:
        yield Origin(server)


class Origin:
    """A client as the origin's IDE: it knows a session, and reads up to the final chunk."""

    def __init__(self, server: Serving) -> None:
        self.server = server
        self.session_id: str | None = None

    async def post(self, message: Any, **more: Any) -> httpx.Response:
        """Send a message and return the whole answer, whatever it is."""
        return await self.server.client.http.post(DOOR, json={"message": message, **more})

    async def send(self, type_: str, **fields: Any) -> list[Chunk]:
        """Send a message in this session and return its chunks, held against what every stream promises."""
        where = {"session_id": self.session_id} if self.session_id else {}
        response = await self.post({"type": type_, **fields}, **where)
        assert response.status_code == 200, response.text
        chunks = parsed(response)
        self.session_id = chunks[0]["session_id"]
        assert {chunk["session_id"] for chunk in chunks} == {self.session_id}
        return chunks

    async def say(self, content: str, agent: str | None = None) -> list[Chunk]:
        return await self.send("user_message", content=content, agent_type=agent)

    async def refusal(self, type_: str, **fields: Any) -> tuple[int, str]:
        """Send a message that is refused; return the status and the detail."""
        response = await self.post({"type": type_, **fields}, session_id=self.session_id)
        body = response.json()
        assert body.keys() == {"detail"}, body
        assert response.headers["content-type"] == "application/json"
        return response.status_code, body["detail"]


def parsed(response: httpx.Response) -> list[Chunk]:
    """Read a stream strictly: bare `data:` lines of 14 fields, `session_info` first, and one final, last."""
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "\r" not in response.text
    messages = [message for message in response.text.split("\n\n") if not message.startswith(":")]
    assert messages.pop() == ""
    assert all(message.startswith("data: ") and "\n" not in message for message in messages)
    chunks = [json.loads(message.removeprefix("data: ")) for message in messages]
    assert all(chunk.keys() == FIELDS for chunk in chunks)
    assert [chunk["type"] == "session_info" for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert [chunk["is_final"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return chunks


def types(chunks: list[Chunk]) -> list[str]:
    """The types of the chunks, without what comes in pieces."""
    return [chunk["type"] for chunk in chunks if chunk["token"] is None and chunk["type"] != "status"]


def said(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chunk that are not empty, beside those that never are."""
    return {name: value for name, value in chunk.items() if value is not None and name not in MEANS_SOMETHING}


def only(chunks: list[Chunk], type_: str) -> Chunk:
    (chunk,) = (one for one in chunks if one["type"] == type_ and one["token"] is None)
    return chunk


def stored(url: str, type_: str) -> list[dict[str, Any]]:
    return [json.loads(row.data) for row in opened_log(url) if row.type == type_]


async def proposed(ide: Origin) -> Chunk:
    chunks = await ide.say("plan a small site", agent="architect")
    assert [one for one in types(chunks) if one.startswith("plan")] == [
        "plan_created",
        "plan_approval_required",
    ]
    return chunks[-1]
