"""How long a model's word takes to those who watch its turn, in its own process and through another one."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx

from tests.openai_pieces import Piece, Text
from tests.openai_server import ChatRequest
from tests.serving import frames_of

_WORD = re.compile(r"w\d+-\d+")


@dataclass
class Lags:
    """Seconds from the model's word to the client, by how the client watches."""

    here: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)
    feed: list[float] = field(default_factory=list)


class Speaker:
    """A model that says numbered words in a steady pace, and remembers when it said them."""

    def __init__(self, words: int, pause_s: float) -> None:
        self._words, self._pause_s = words, pause_s
        self._said: dict[str, float] = {}

    async def script(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """Say the words of the turn whose number is the newest message."""
        turn = request.messages[-1]["content"]
        if not turn.isdigit():
            yield Text("Hello.")
            return
        for number in range(self._words):
            await asyncio.sleep(self._pause_s)
            word = f"w{turn}-{number}"
            self._said[word] = time.perf_counter()
            yield Text(f"{word} ")

    async def listen(self, response: httpx.Response, lags: list[float]) -> None:
        """Note when each word comes, to the end of the turn."""
        async for frame in frames_of(response):
            if frame.type == "turn.delta":
                now = time.perf_counter()
                lags.extend(now - self._said[word] for word in _WORD.findall(frame.data["text"]))
            if frame.is_final or frame.type.endswith("message_sent"):
                return


async def lags_of_words(speaker: Speaker, here: str, there: str, turns: int) -> Lags:
    """Run turns side by side at `here`; each is watched there, too, as a turn and as a conversation."""
    lags = Lags()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, verify=False) as http:
        await asyncio.gather(
            *(one_turn(http, speaker, (here, there), number, lags) for number in range(turns))
        )
    return lags


async def one_turn(
    http: httpx.AsyncClient, speaker: Speaker, urls: tuple[str, str], number: int, lags: Lags
) -> None:
    here, there = urls
    conversation_id, turn_id = f"c{number}", f"t{number}"
    hello = {"conversation_id": conversation_id, "message": {"type": "user_message", "content": "hello"}}
    await http.post(f"{here}/v1/messages/stream", json=hello)  # a feed is of a conversation that is stored
    message = {"type": "user_message", "content": str(number)}
    body = {"conversation_id": conversation_id, "turn_id": turn_id, "message": message}

    async def watch(path: str, into: list[float]) -> None:
        async with http.stream("GET", f"{there}{path}") as response:
            assert response.status_code == 200, await response.aread()
            await speaker.listen(response, into)

    async with http.stream("POST", f"{here}/v1/messages/stream", json=body) as response:
        assert response.status_code == 200, await response.aread()
        await asyncio.gather(
            speaker.listen(response, lags.here),
            watch(f"/v1/turns/{turn_id}/stream", lags.there),
            watch(f"/v1/conversations/{conversation_id}/feed", lags.feed),
        )
