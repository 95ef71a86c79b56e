"""Listening to a model: bounded in bytes and in time, and fair to everything else that runs."""

import asyncio
from contextlib import aclosing
from typing import Final

from application.answer import Answer
from application.errors import AnswerLimitReachedError, TurnTimeLimitReachedError
from application.frames import DELTA
from application.language_model import ModelRequest, TextDelta, ToolCall
from application.texts import storable_text
from application.turn import Kit, Turn

# So many deltas go out one by one in each window; what comes faster than anybody reads is joined.
WINDOW_S: Final = 0.05
AT_ONCE: Final = 50
# Each becomes an event, all in one go: thousands would keep everybody waiting, and nobody decides on them.
MOST_CALLS: Final = 256
# A model that never makes us wait would keep everything else waiting.
FAIR_S: Final = 0.005


async def listen(answer: Answer, request: ModelRequest, turn: Turn, kit: Kit) -> None:
    """Fill the answer from the model; a cancel or a limit ends it early and marks it truncated."""
    # No task of its own: every turn comes through here.
    until_stopped = asyncio.timeout_at(turn.began + kit.limits.turn_s)

    def stop() -> None:
        if not until_stopped.expired():  # a model may take its time to stop, and be told again meanwhile
            until_stopped.reschedule(0)

    turn.stop_listening = stop
    deltas = Deltas(answer, turn)
    try:
        async with until_stopped:
            await _fill(answer, deltas, request, kit)
    except TimeoutError:
        if not until_stopped.expired():
            raise
        answer.truncated = True
        if not turn.is_cancelled:
            answer.limit = TurnTimeLimitReachedError(limit=f"{kit.limits.turn_s:g}")
    finally:
        turn.stop_listening = None
        deltas.close()


async def _fill(answer: Answer, deltas: "Deltas", request: ModelRequest, kit: Kit) -> None:
    loop = asyncio.get_running_loop()
    rested = loop.time()
    async with aclosing(kit.model.answer(request)) as chunks:  # type: ignore[type-var]  # a generator
        async for chunk in chunks:
            if isinstance(chunk, TextDelta):
                deltas.say(_fitting(storable_text(chunk.text), answer, kit.limits.answer_bytes))
                if answer.limit:
                    return
            elif isinstance(chunk, ToolCall):
                if len(answer.calls) == MOST_CALLS:
                    _end(answer, f"{MOST_CALLS} tool calls")
                    return
                answer.calls.append(chunk)
            else:
                answer.finished = chunk
            if loop.time() - rested > FAIR_S:
                await asyncio.sleep(0)
                rested = loop.time()


def _fitting(text: str, answer: Answer, limit: int) -> str:
    """Return as much of the text as the answer may still hold; the answer ends where that is not all."""
    data = text.encode()
    room = limit - answer.bytes
    if len(data) <= room:
        answer.bytes += len(data)
        return text
    answer.bytes = limit
    _end(answer, f"{limit} bytes")
    return data[:room].decode(errors="ignore")


def _end(answer: Answer, limit: str) -> None:
    answer.truncated = True
    answer.limit = AnswerLimitReachedError(limit=limit)


class Deltas:
    """Says an answer's text as it comes.

    Of more than `AT_ONCE` deltas in `WINDOW_S` seconds the rest is joined into one, so that a model without
    measure costs neither the watchers nor the chunk log a frame for each of its words.
    """

    def __init__(self, answer: Answer, turn: Turn) -> None:
        self._answer = answer
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._said = 0
        self._held: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def say(self, text: str) -> None:
        """Add to the answer, and tell those who watch, now or at the end of the window."""
        if not text:
            return
        self._answer.text.write(text)
        now = self._loop.time()
        if now >= self._until:
            self._flush()
            self._until, self._said = now + WINDOW_S, 0
        if self._said < AT_ONCE:
            self._said += 1
            self._tell(text)
            return
        self._held.append(text)
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._flush)

    def close(self) -> None:
        """Tell what is still held."""
        self._flush()

    def _flush(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._held:
            self._tell("".join(self._held))
            self._held.clear()

    def _tell(self, text: str) -> None:
        about = {"message_id": self._answer.message_id, "agent": self._answer.agent}
        self._turn.stream.say(DELTA, **about, text=text)
