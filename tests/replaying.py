"""Recorded conversations, said again: what is to happen, what happened, and the person who says it."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from tests.opened import opened_log
from tests.recorded_model import MARK, Message, RecordedModel
from tests.serving import Client, SseFrame, frames_of

Minute = tuple[Any, ...]

ASK = re.compile(r"book_reservation|cancel_reservation|update_reservation_\w+|send_certificate")
CLOSING = {"role": "assistant", "content": "The recording ends here."}


# --- what is to happen -----------------------------------------------------------------------------


def decision_on(conversation_id: str, number: int) -> dict[str, Any]:
    """Say how the person decides on a call, told by its number: most are approved, all three occur."""
    kind = ("reject", "edit", "approve", "approve", "approve")[(int(conversation_id[8:10]) + number) % 5]
    mark = f"[decision {conversation_id}-{number}]"
    return {"decision": kind} if kind == "approve" else {"decision": kind, "feedback": f"Because. {mark}"}


def edited(arguments: Message) -> dict[str, Any]:
    return {**arguments, "confirmed_by": "a person", "times": [1, 2.5, None]}


def expected_minutes(conversation: Message) -> Iterator[Minute]:
    """Tell, in order, what the log is to hold of a conversation."""
    yield ("conversation.started", "user:local")
    messages = conversation["messages"]
    number, verdict = -1, ""
    for message in messages:
        if message["role"] == "user":
            yield ("conversation.user_message_received", "user:local", message["content"])
        elif message["role"] == "tool":
            if verdict != "reject":
                result = (message["name"], message["content"], None)
                yield ("conversation.tool_result_received", "user:local", number, *result)
        else:
            yield from _expected_answer(message)
            for call in message.get("tool_calls") or ():
                number, verdict = number + 1, ""
                yield from _expected_call(number, call)
                if ASK.fullmatch(call["name"]):
                    decision = decision_on(conversation["id"], number)
                    verdict = decision["decision"]
                    yield _expected_decision(number, call, decision)
    if messages[-1]["role"] != "assistant":
        yield from _expected_answer(CLOSING)


def _expected_answer(message: Message) -> Iterator[Minute]:
    if message.get("content"):
        yield ("conversation.assistant_message_sent", "agent:airline", message["content"], False)


def _expected_call(number: int, call: Message) -> Iterator[Minute]:
    asks = bool(ASK.fullmatch(call["name"]))
    said = (call["id"], call["name"], json.loads(call["arguments"]), asks)
    yield ("conversation.tool_call_requested", "agent:airline", number, *said)


def _expected_decision(number: int, call: Message, decision: Message) -> Minute:
    arguments = json.loads(call["arguments"])
    feedback = decision.get("feedback")
    said: dict[str, tuple[Any, ...]] = {
        "approve": ("approved", (call["name"], arguments, None)),
        "edit": ("edited", (call["name"], arguments, edited(arguments), feedback)),
        "reject": ("rejected", (call["name"], feedback)),
    }
    name, fields = said[decision["decision"]]
    return (f"conversation.tool_call_{name}", "user:local", number, *fields)


# --- what happened ---------------------------------------------------------------------------------

_FIELDS = {
    "conversation.started": (),
    "conversation.user_message_received": ("content",),
    "conversation.assistant_message_sent": ("content", "truncated"),
    "conversation.tool_call_requested": (
        "call_id", "model_call_id", "tool", "arguments", "requires_decision"
    ),
    "conversation.tool_call_approved": ("call_id", "tool", "arguments", "feedback"),
    "conversation.tool_call_edited": ("call_id", "tool", "arguments_before", "arguments_after", "feedback"),
    "conversation.tool_call_rejected": ("call_id", "tool", "feedback"),
    "conversation.tool_result_received": ("call_id", "tool", "result", "error"),
}  # fmt: skip


@dataclass(frozen=True)
class LogRow:
    position: int
    stream: str
    version: int
    conversation: str
    turn: str
    type: str
    actor: str
    data: dict[str, Any]


def read_log(database_url: str) -> list[LogRow]:
    """Read the whole log, as its bytes say it."""
    return [
        LogRow(
            row.position, row.stream, row.version, row.conversation, row.turn, row.type, row.actor,
            _own_fields(row.data),
        )
        for row in opened_log(database_url)
    ]  # fmt: skip


def _own_fields(stored: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(stored)
    fields.pop("class_version", None)  # the store's own note; it is not part of the event
    return fields


def stored_minutes(rows: Sequence[LogRow]) -> list[Minute]:
    """Tell what the log holds of one conversation; calls go by their number, for their ids are random."""
    numbers: dict[str, int] = {}
    minutes: list[Minute] = []
    for row in rows:
        if row.stream.startswith("conversation-"):
            fields = [row.data[name] for name in _FIELDS[row.type]]
            if "call_id" in row.data:
                fields[0] = numbers.setdefault(row.data["call_id"], len(numbers))
            minutes.append((row.type, row.actor, *fields))
    return minutes


# --- the person ------------------------------------------------------------------------------------


class Person:
    """Sends messages; a rough one repeats every third and loses every tenth stream after a few frames."""

    def __init__(self, client: Client, *, rough: bool) -> None:
        self.turns: list[str] = []
        self.frames: list[SseFrame] = []
        self.repeats: Counter[str] = Counter()
        self._client = client
        self._rough = rough
        self._numbers = count(1)

    async def send(self, conversation_id: str, message: Message) -> list[SseFrame]:
        """Send a message and return the committed frames of its turn."""
        turn_id, number = str(uuid4()), next(self._numbers)
        self.turns.append(turn_id)
        where = {"conversation_id": conversation_id, "turn_id": turn_id}
        frames = await self._send(message, where, number if self._rough else -1)
        assert frames[-1].type == "turn.committed", frames[-1]
        assert [frame.is_final for frame in frames].count(True) == 1
        committed = [frame for frame in frames if "position" in frame.data]
        self.frames += committed
        return committed

    async def _send(self, message: Message, where: dict[str, str], number: int) -> list[SseFrame]:
        if number > 0 and number % 10 == 0:
            return await self._cut(message, where, number)
        if number < 0 or number % 3:
            return await self._client.send(message, **where)
        if number % 2:
            self.repeats["at once"] += 1
            first, second = await asyncio.gather(
                self._client.send(message, **where), self._client.send(message, **where)
            )
        else:
            self.repeats["after"] += 1
            first = await self._client.send(message, **where)
            second = await self._client.send(message, **where)
        assert committed_part(first) == committed_part(second)
        return first

    async def _cut(self, message: Message, where: dict[str, str], number: int) -> list[SseFrame]:
        self.repeats["cut"] += 1
        seen: list[SseFrame] = []
        async with self._client.stream({**where, "message": message}) as response:
            assert response.status_code == 200
            async for frame in frames_of(response):
                seen.append(frame)
                if len(seen) == 1 + number // 10 % 3 or frame.is_final:
                    break
        frames = seen + await self._client.read_turn(where["turn_id"], seen[-1].id)
        return frames[:-1] if seen[-1].is_final else frames


def committed_part(frames: Sequence[SseFrame]) -> list[SseFrame]:
    return [frame for frame in frames if "position" in frame.data or frame.is_final]


def _mark(decision: Message) -> str:
    """Return the words by which the model's newest message tells this decision; none for an approval."""
    found = MARK.search(decision.get("feedback", ""))
    return found.group() if found else ""


class Replay:
    """Says a whole recorded conversation again, deciding on every call that asks for it."""

    def __init__(self, conversation: Message, person: Person, model: RecordedModel) -> None:
        self._name, self._messages = conversation["id"], conversation["messages"]
        self._answers = [*self._messages[1:], CLOSING]
        self._person, self._model = person, model
        self._numbers = count()
        self._call: dict[str, Any] = {}
        self._rejected = False
        self._edited_mark = ""

    async def play(self) -> None:
        for index, message in enumerate(self._messages):
            if message["role"] == "user":
                said = {"type": "user_message", "content": message["content"]}
                await self._say(said, message["content"], self._answers[index])
            elif message["role"] == "tool":
                if not self._rejected:  # a rejected call has no result: the agent has gone on already
                    result = {"type": "tool_result", **self._call_id(), "result": message["content"]}
                    await self._say(result, message["content"], self._answers[index])
                self._rejected = False
            elif message.get("tool_calls"):
                await self._take_up(self._answers[index + 1])

    async def _take_up(self, after_result: Message) -> None:
        number = next(self._numbers)
        if self._call["requires_decision"]:
            decision = decision_on(self._name, number)
            self._rejected = decision["decision"] == "reject"
            if decision["decision"] == "edit":
                decision["arguments"] = edited(self._call["arguments"])
            message = {"type": "hitl_decision", **self._call_id(), **decision}
            if self._rejected:
                await self._say(message, _mark(decision), after_result)
            else:
                self._edited_mark = _mark(decision)
                await self._person.send(self._name, message)

    async def _say(self, message: Message, words: str, answer: Message) -> None:
        if self._edited_mark and message["type"] == "tool_result":
            words = self._edited_mark
        self._edited_mark = ""
        async with self._model.will_answer(words, answer):
            frames = await self._person.send(self._name, message)
        asked = [frame for frame in frames if frame.type == "conversation.tool_call_requested"]
        self._call = asked[0].data["data"] if asked else {}

    def _call_id(self) -> dict[str, str]:
        return {"call_id": self._call["call_id"]}
