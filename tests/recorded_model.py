"""A model that answers as recorded: whoever sends a message announces what the answer to it will be."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.openai_pieces import Piece, recorded
from tests.openai_server import ChatRequest

Message = Mapping[str, Any]
MARK = re.compile(r"\[decision [\w-]+\]")
PIECE = 200  # characters


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
