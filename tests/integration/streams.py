"""What the tests of the streams share: what a good stream looks like, what is stored, models to steer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg
import pytest

import infrastructure.models.providers  # noqa: F401 (loaded before the loop is watched)
from tests.openai_pieces import Piece, Text, call
from tests.openai_server import ChatRequest, OpenAIServer
from tests.opened import opened_log
from tests.serving import Client, Refused, Serving, SseFrame, serving

ABOUT = {"conversation_id", "turn_id", "seq"}
STARTED = ABOUT | {"kind", "actor", "agent", "started_at"}
DELTA = ABOUT | {"message_id", "agent", "text"}
STATUS = ABOUT | {"text"}
COMMITTED = ABOUT | {"position", "recorded_at", "actor", "data"}
END = ABOUT | {"first_position", "last_position", "events", "state", "waiting_for", "is_final"}
FAILED = ABOUT | {"code", "message", "retryable", "is_final"}
FIELDS = {"turn.started": STARTED, "turn.delta": DELTA, "turn.committed": END, "turn.failed": FAILED}

Steps = Sequence[Iterable[Piece] | AsyncIterator[Piece]]


# --- frames --------------------------------------------------------------------------------------


def committed(frames: Sequence[SseFrame]) -> list[SseFrame]:
    """Return the committed frames."""
    return [frame for frame in frames if "position" in frame.data]


def types(frames: Sequence[SseFrame]) -> list[str]:
    """Return the types of the committed frames, without their first word."""
    return [frame.type.partition(".")[2] for frame in committed(frames)]


def data_of(frames: Sequence[SseFrame], type_: str) -> list[dict[str, Any]]:
    """Return what the committed frames of this type say."""
    return [frame.data["data"] for frame in frames if frame.type == type_]


def calls_of(frames: Sequence[SseFrame]) -> list[str]:
    """Return the ids of the calls that were requested, in order."""
    return [said["call_id"] for said in data_of(frames, "conversation.tool_call_requested")]


def said_by(frames: Sequence[SseFrame]) -> list[str]:
    """Return what agents said, in order."""
    return [said["content"] for said in data_of(frames, "conversation.assistant_message_sent")]


def end_of(frames: Sequence[SseFrame]) -> dict[str, Any]:
    """Return what the terminal frame says."""
    return frames[-1].data


def check_frames(frames: Sequence[SseFrame], attempt: int = 1, first_seq: int = 1) -> None:
    """Hold a stream against "Frames" in docs/protocol.md: its fields, its ids, its order, its one end."""
    assert [frame.id for frame in frames] == [
        f"{attempt}.{seq}" for seq in range(first_seq, first_seq + len(frames))
    ]
    assert [frame.is_final for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert len({(frame.data["conversation_id"], frame.data["turn_id"]) for frame in frames}) == 1
    for frame in frames:
        assert f"{attempt}.{frame.data['seq']}" == frame.id
        expected = STATUS if frame.type == "turn.status" else FIELDS.get(frame.type, COMMITTED)
        assert set(frame.data) - ({"detail"} if frame.type == "turn.status" else set()) == expected, frame
    _check_order(frames)


def _check_order(frames: Sequence[SseFrame]) -> None:
    stored = committed(frames)
    kinds = ["position" in frame.data for frame in frames[:-1]]
    assert kinds == sorted(kinds), "a provisional frame came after the commit"
    positions = [frame.data["position"] for frame in stored]
    assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True
    end = end_of(frames)
    assert end["is_final"] is True
    if frames[-1].type == "turn.committed":
        assert (end["first_position"], end["last_position"]) == (positions[0], positions[-1])
        assert end["events"] == len(positions)
        assert set(end["waiting_for"]) == {"calls", "decisions", "plan"}
    for frame in stored:
        assert datetime.fromisoformat(frame.data["recorded_at"]).tzinfo


# --- what is stored ------------------------------------------------------------------------------


async def rows(database_url: str, query: str) -> list[tuple[Any, ...]]:
    """Ask the database."""
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def log_of(database_url: str) -> list[dict[str, Any]]:
    """Return the whole log as committed frames would say it."""
    return [
        {
            "type": row.type,
            "conversation_id": row.conversation,
            "turn_id": row.turn,
            "position": row.position,
            "recorded_at": row.recorded_at,
            "actor": row.actor,
            "data": {k: v for k, v in json.loads(row.data).items() if k != "class_version"},
        }
        for row in await asyncio.to_thread(opened_log, database_url)
    ]


def as_logged(frames: Sequence[SseFrame]) -> list[dict[str, Any]]:
    """Return the committed frames as `log_of` does the log."""
    return [
        {"type": frame.type}
        | {name: value for name, value in frame.data.items() if name != "seq"}
        | {"recorded_at": datetime.fromisoformat(frame.data["recorded_at"])}
        for frame in committed(frames)
    ]


async def turns_of(database_url: str) -> list[tuple[str, str]]:
    """Return every turn row: its id and its state, in the order of acceptance."""
    found = await rows(database_url, "SELECT id, state FROM turns ORDER BY accepted_at")
    return [(turn_id, state) for turn_id, state in found]


# --- asking --------------------------------------------------------------------------------------


async def refused(client: Client, message: dict[str, Any], code: str, **where: Any) -> dict[str, Any]:
    """Send what is to be refused with this code before the stream opens; return the problem."""
    with pytest.raises(Refused) as refusal:
        await client.send(message, **where)
    problem = refusal.value.problem
    assert problem["code"] == code, problem
    assert set(problem) - {"turn_id"} == {"type", "status", "code", "title", "detail", "retryable"}
    assert problem["status"] == refusal.value.status
    return problem


async def ask(client: Client, content: str, agent: str, **where: Any) -> list[SseFrame]:
    """Say something to this agent."""
    return await client.send({"type": "user_message", "content": content, "agent": agent}, **where)


async def result(client: Client, conversation_id: str, call_id: str, value: Any = "ok", **more: Any) -> Any:
    """Send the result of a call."""
    message = {"type": "tool_result", "call_id": call_id, "result": value}
    return await client.send(message, conversation_id=conversation_id, **more)


async def decide(client: Client, conversation_id: str, call_id: str, decision: str, **more: Any) -> Any:
    """Decide on a call."""
    message = {"type": "hitl_decision", "call_id": call_id, "decision": decision, **more}
    return await client.send(message, conversation_id=conversation_id)


async def status_of(server: Serving, turn_id: str) -> dict[str, Any]:
    """Return a turn's state over HTTP."""
    response = await server.client.http.get(f"/v1/turns/{turn_id}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until something is so; fails the test when it does not become so."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.005)


async def ended(server: Serving, turn_id: str) -> dict[str, Any]:
    """Wait until a turn is over and return its state."""
    frames = await server.client.read_turn(turn_id)
    assert frames[-1].is_final
    return await status_of(server, turn_id)


# --- models to steer -----------------------------------------------------------------------------


class Gate:
    """A model that says a word, waits until it is let go on, and says another."""

    def __init__(self, *rest: Piece) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._rest = rest or (Text("after"),)

    async def pieces(self) -> AsyncIterator[Piece]:
        yield Text("before ")
        self.reached.set()
        await self.opened.wait()
        for piece in self._rest:
            yield piece


def in_turn(*steps: Iterable[Piece] | AsyncIterator[Piece]) -> Callable[[ChatRequest], Any]:
    """Answer one request after another with these steps; whoever asks once more hears "done"."""
    left = list(steps)

    def script(_: ChatRequest) -> Iterable[Piece] | AsyncIterator[Piece]:
        return left.pop(0) if left else [Text("done")]

    return script


def calling(*calls: tuple[str, dict[str, Any]], text: str = "", ids: str = "call_") -> list[Piece]:
    """Answer with a text and several calls of tools."""
    said: list[Piece] = [Text(text)] if text else []
    for index, (tool, arguments) in enumerate(calls):
        said += call(index, f"{ids}{index}", tool, json.dumps(arguments), 7)
    return said


def reading(number: int) -> list[Piece]:
    """Answer with so many calls that may run at once."""
    return calling(*(("read_file", {"path": f"{n}.txt"}) for n in range(number)))


def writing(number: int) -> list[Piece]:
    """Answer with so many calls that wait for a person."""
    return calling(*(("write_file", {"path": f"{n}.txt", "content": str(n)}) for n in range(number)))


@asynccontextmanager
async def steered(
    database_url: str, script: Callable[[ChatRequest], Any], **settings: Any
) -> AsyncIterator[tuple[Serving, OpenAIServer]]:
    """Serve with a model that follows a script."""
    async with OpenAIServer(script) as model:
        about = {"model": "openai:x", "model_base_url": model.base_url, "model_api_key": "k"}
        async with serving(database_url, **about, **settings) as server:
            yield server, model
