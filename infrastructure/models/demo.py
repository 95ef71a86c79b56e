"""A model without a model: it answers from a table of plain words, offline and without a key.

Everything Minutebook does can be tried with it, and tests rely on it: the same request has the same answer.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

from application.agents import SWITCH_AGENT
from application.language_model import (
    CallMade,
    Finished,
    ModelChunk,
    ModelRequest,
    ResultGiven,
    Said,
    TextDelta,
    ToolCall,
)
from infrastructure.models.demo_words import HELP, Reply, by_words, handed_over, short, subtask

__all__ = ["HELP", "DemoModel"]


class DemoModel:
    """A language model that streams word by word, `delay_s` seconds apart, or `pause_s` where asked to."""

    def __init__(self, delay_s: float = 0.02, pause_s: float = 1.0) -> None:
        self._delay_s = delay_s
        self._pause_s = pause_s

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Stream the answer to the newest message; raises the `ModelError` that it was asked for."""
        reply = _reply(request)
        words = re.findall(r"\s*\S+\s*", reply.text)
        for word in words:
            yield TextDelta(word)
            await asyncio.sleep(self._pause_s if reply.paused else self._delay_s)
        if reply.error:
            raise reply.error
        first = 1 + sum(isinstance(message, CallMade) for message in request.messages)
        for number, (tool, arguments) in enumerate(reply.calls, first):
            yield ToolCall(f"demo_{number}", tool, arguments)
        yield Finished(
            "tool_calls" if reply.calls else "stop", _words(request), len(words) + 8 * len(reply.calls)
        )


def _words(request: ModelRequest) -> int:
    texts = (
        message.arguments if isinstance(message, CallMade) else message.content
        for message in request.messages
    )
    return len(request.instructions.split()) + sum(len(text.split()) for text in texts)


def _reply(request: ModelRequest) -> Reply:
    """Answer the results that came in, or else the newest words of the person."""
    said, results = _newest(request)
    others = [result for result in results if result.tool != SWITCH_AGENT.name]
    if others:
        return _after(others)
    if said.startswith("Subtask"):
        return subtask(request, said)
    if results:
        return handed_over(request, said, results[-1].content)
    return by_words(request, said)


def _newest(request: ModelRequest) -> tuple[str, list[ResultGiven]]:
    """Return what the person said last, and the results since then, in order."""
    results: list[ResultGiven] = []
    for message in reversed(request.messages):
        if isinstance(message, ResultGiven):
            results.insert(0, message)
        elif isinstance(message, Said) and message.role == "user" and not message.content.startswith(_NOTES):
            return message.content.strip(), results
    return "", results


# Notes in the person's name, about what happened rather than what is wanted.
_NOTES = ("I changed the arguments", "[The person stopped")


def _after(results: Sequence[ResultGiven]) -> Reply:
    """Say what came of the calls, in a sentence or two."""
    refused = next(
        (result for result in results if re.search(r"reject", result.content[:80], re.IGNORECASE)), None
    )
    if refused:
        return Reply(f"Understood, I leave {refused.tool} alone. You said: {short(refused.content)}")
    last = short(results[-1].content)
    if len(results) > 1:
        tools = ", ".join(result.tool for result in results)
        return Reply(f"All {len(results)} calls are answered: {tools}. The last one said: {last}")
    if last.startswith(("Error", "This call was not run")):
        return Reply(f"{results[0].tool} did not work. {last}")
    return Reply(f"{results[0].tool} is done. It answered: {last}")
