"""A model that answers as recorded: whoever sends a message announces what the answer to it will be."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from application.language_model import (
    CallMade,
    Finished,
    ModelChunk,
    ModelMessage,
    ModelRequest,
    Said,
    TextDelta,
    ToolCall,
)
from tests.openai_pieces import Piece, Text, recorded
from tests.openai_server import ChatRequest

Message = Mapping[str, Any]
MARK = re.compile(r"\[decision [\w-]+\]")
PIECE = 48  # characters


@dataclass
class RecordedModel:
    """Answers each request with what its conversation's recording says next.

    Whoever sends a message announces its answer; the newest words of a request tell which one is
    meant. Two conversations that say the same words at the same moment take turns.
    """

    asked: Counter[str] = field(default_factory=Counter)
    malformed: list[str] = field(default_factory=list)
    _answers: dict[str, Message] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    @asynccontextmanager
    async def will_answer(self, words: str, answer: Message) -> AsyncIterator[None]:
        words = words.strip()
        async with self._locks.setdefault(words, asyncio.Lock()):
            self._answers[words] = answer
            try:
                yield
            finally:
                del self._answers[words]

    def __call__(self, request: ChatRequest) -> list[Piece]:
        """Answer as an OpenAI server."""
        return recorded(self._answer_to(request.messages), PIECE)

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Answer without a provider between: as a language model of this process."""
        answer = self._answer_to(told(request.messages))
        for piece in recorded(answer, PIECE):
            if isinstance(piece, Text):
                yield TextDelta(piece.text)
        for call in answer.get("tool_calls") or ():
            yield ToolCall(call["id"], call["name"], call["arguments"])
        yield Finished("tool_calls" if answer.get("tool_calls") else "stop", 7, 5)

    def _answer_to(self, messages: Sequence[Message]) -> Message:
        words = str(messages[-1].get("content") or "").strip()
        if mark := MARK.search(words):
            words = mark.group()
        self.asked[words] += 1
        self.malformed += problems_of(messages)
        if words not in self._answers:
            self.malformed.append(f"nobody said: {words}")
            return {"role": "assistant", "content": "Nobody said that."}
        return self._answers[words]


def told(history: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """Say what a model may know in the form of OpenAI's chat; calls go with the answer before them."""
    messages: list[dict[str, Any]] = []
    for message in history:
        if isinstance(message, Said):
            messages.append({"role": message.role, "content": message.content})
        elif isinstance(message, CallMade):
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant"})
            messages[-1].setdefault("tool_calls", []).append({"id": message.model_call_id})
        else:
            result = {"tool_call_id": message.model_call_id, "content": message.content}
            messages.append({"role": "tool", **result})
    return messages


def problems_of(messages: Sequence[Message]) -> list[str]:
    """Say where a request is not well formed: each call has one result, before anything else is said."""
    problems: list[str] = []
    open_calls: set[str] = set()
    used: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                problems.append(f"a result without its call: {message['tool_call_id']}")
            open_calls.discard(message["tool_call_id"])
            continue
        if open_calls:
            problems.append(f"{message['role']} speaks before {sorted(open_calls)} is answered")
        ids = [call["id"] for call in message.get("tool_calls") or ()]
        problems += [f"the id {one} stands for two calls" for one in ids if one in used]
        used.update(ids)
        open_calls = set(ids)
    return problems + (["a call at the end has no result"] if open_calls else [])
