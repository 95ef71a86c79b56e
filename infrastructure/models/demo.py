"""A model without a model: it answers from a table of plain words, offline and without a key.

Everything Minutebook does can be tried with it, and tests rely on it: the same request has the same answer.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from application import errors
from application.agents import PROPOSE_PLAN, SWITCH_AGENT
from application.ports import (
    CallMade,
    Finished,
    ModelChunk,
    ModelRequest,
    ResultGiven,
    Said,
    TextDelta,
    ToolCall,
)

HELP = """\
I am the demo model: no provider, no key, only a few plain words. Say
- read FILE, list, search WORD: I look at your files
- write FILE, edit FILE, delete FILE, run COMMAND: I ask to change something, and you decide
- both, three files: several calls in one answer
- plan GOAL: the architect proposes a plan for you to approve, send back or reject
- switch to AGENT, or AGENT: TEXT, as coder: write hello.py
- long 500: a long answer; slow 10: an answer with pauses
- forbidden, bad arguments: calls that cannot be carried out
- fail, rate limit, refuse, timeout, auth: errors of a model"""


@dataclass(frozen=True, slots=True)
class _Reply:
    """What to answer: a text, then calls (tool, arguments as text), then perhaps an error."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    error: type[errors.ModelError] | None = None
    paused: bool = False


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
        getattr(message, "content", None) or cast("CallMade", message).arguments
        for message in request.messages
    )
    return len(request.instructions.split()) + sum(len(text.split()) for text in texts)


def _reply(request: ModelRequest) -> _Reply:
    """Answer the results that came in, or else the newest words of the person."""
    said, results = _newest(request)
    if results and results[-1].tool != SWITCH_AGENT.name:
        return _after(results)
    text = said.strip()
    if text.startswith("Subtask"):
        return _subtask(request, text)
    if results:
        return _handed_over(request, text, results[-1].content)
    return _by_words(request, text)


def _newest(request: ModelRequest) -> tuple[str, list[ResultGiven]]:
    """Return what the person said last, and the results since then and since the last hand-over."""
    results: list[ResultGiven] = []
    for message in reversed(request.messages):
        if isinstance(message, Said) and message.role == "user":
            return message.content, results
        if isinstance(message, ResultGiven) and (not results or message.tool != SWITCH_AGENT.name):
            results.insert(0, message)
        elif isinstance(message, ResultGiven):
            break
    return _last_words(request), results


def _last_words(request: ModelRequest) -> str:
    said = (
        message
        for message in reversed(request.messages)
        if isinstance(message, Said) and message.role == "user"
    )
    return next((message.content for message in said), "")


# --- what came back ------------------------------------------------------------------------------


def _after(results: Sequence[ResultGiven]) -> _Reply:
    """Say what came of the calls, in a sentence or two."""
    refused = next(
        (result for result in results if re.search(r"reject|declin", result.content[:80], re.IGNORECASE)),
        None,
    )
    if refused:
        return _Reply(f"Understood, I leave {refused.tool} alone. You said: {_short(refused.content)}")
    if len(results) == 1:
        return _Reply(f"{results[0].tool} is done. It answered: {_short(results[0].content)}")
    tools = ", ".join(result.tool for result in results)
    return _Reply(
        f"All {len(results)} calls are answered: {tools}. The last one said: {_short(results[-1].content)}"
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def _subtask(request: ModelRequest, text: str) -> _Reply:
    """Do a subtask of a plan: with a tool where its words name one, else by saying so."""
    description = re.sub(r"^Subtask[^:]*:\s*", "", text)
    for pattern, function in _TOOL_WORDS:
        match = re.search(pattern, description, re.IGNORECASE)
        reply = function(request, match) if match else _Reply()
        if reply.calls and reply.calls[0][0] != SWITCH_AGENT.name:  # a subtask stays with its agent
            return reply
    return _Reply(f"Done: {_short(description)}")


def _handed_over(request: ModelRequest, text: str, result: str) -> _Reply:
    """Go on as the agent that was switched to; nobody hands over twice for the same words."""
    rest = re.sub(r"^(?:switch to (\w+)(?: and)?|(\w+):)\s*", "", text, flags=re.IGNORECASE)
    if not rest:
        return _Reply(f"This is {request.agent} now. What shall I do?")
    reply = _by_words(request, rest)
    if any(tool == SWITCH_AGENT.name for tool, _ in reply.calls):
        return _Reply(f"This is {request.agent}; I could not hand over any further. {_short(result)}")
    return reply


# --- words and what they do ----------------------------------------------------------------------


def _by_words(request: ModelRequest, text: str) -> _Reply:
    for pattern, function in _WORDS:
        if match := re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return function(request, match)
    return _Reply(f"You said: {_short(text)}\nI am only the demo model. Say help to see what I understand.")


def _call(request: ModelRequest, tool: str, *several: dict[str, Any]) -> _Reply:
    """Call a tool once for each set of arguments, or hand over to an agent that has it."""
    if any(known.name == tool for known in request.tools):
        calls = tuple((tool, json.dumps(arguments, ensure_ascii=False)) for arguments in several)
        return _Reply(f"I call {tool}{f' {len(calls)} times' if len(calls) > 1 else ''}.", calls)
    agent = {"propose_plan": "architect"}.get(tool, "coder")
    return _switch(request, agent, f"{request.agent} has no tool {tool}")


def _switch(request: ModelRequest, agent: str, reason: str) -> _Reply:
    tool = next((tool for tool in request.tools if tool.name == SWITCH_AGENT.name), None)
    known = tool.parameters["properties"]["agent"].get("enum", [agent]) if tool else []
    if agent not in known or agent == request.agent:
        return _Reply(f"This is {request.agent}, and I cannot hand over to {agent}.")
    arguments = json.dumps({"agent": agent, "reason": reason}, ensure_ascii=False)
    return _Reply(f"I hand over to {agent}.", ((SWITCH_AGENT.name, arguments),))


def _switch_to(request: ModelRequest, match: re.Match[str]) -> _Reply:
    agent = match[1].lower()
    if agent == request.agent:
        return _handed_over(request, match.string, "")
    return _switch(request, agent, "you asked for it")


def _write(request: ModelRequest, match: re.Match[str]) -> _Reply:
    content = match[2] or f"This is {match[1]}, written by the demo model.\n"
    return _call(request, "write_file", {"path": match[1], "content": content})


def _edit(request: ModelRequest, match: re.Match[str]) -> _Reply:
    return _call(request, "edit_file", {"path": match[1], "old_text": "demo model", "new_text": "Demo Model"})


def _several(request: ModelRequest, match: re.Match[str]) -> _Reply:
    names = ["one.txt", "two.txt", "three.txt"][: 2 if match[0].lower() == "both" else 3]
    if any(tool.name == "write_file" for tool in request.tools):
        return _call(request, "write_file", *({"path": name, "content": f"{name}\n"} for name in names))
    return _call(request, "read_file", *({"path": name} for name in names))


def _plan(request: ModelRequest, match: re.Match[str]) -> _Reply:
    goal = match[1].strip(" .") or "a small file"
    subtasks = [
        _step("1", f"Read README.md to see what is there for: {goal}", "ask"),
        _step("2", f"Write result.txt: {goal}", "coder", "1"),
        _step("3", f"Check the result: {goal}", "debug", "1", "2"),
    ]
    return _call(request, PROPOSE_PLAN.name, {"goal": goal, "subtasks": subtasks})


def _plan_again(request: ModelRequest, match: re.Match[str]) -> _Reply:
    """Propose the newest plan again, with the feedback as one more step at its end."""
    plans = [
        made for made in request.messages if isinstance(made, CallMade) and made.tool == PROPOSE_PLAN.name
    ]
    feedback = match[1].strip() or "as you like it"
    plan = json.loads(plans[-1].arguments) if plans else {"goal": feedback, "subtasks": []}
    ids = [step["id"] for step in plan["subtasks"]]
    step = _step(str(len(ids) + 1), f"Work in what you said: {feedback}", "coder", *ids[-1:])
    return _call(request, PROPOSE_PLAN.name, {"goal": plan["goal"], "subtasks": [*plan["subtasks"], step]})


def _step(step_id: str, description: str, agent: str, *depends_on: str) -> dict[str, Any]:
    return {"id": step_id, "description": description, "agent": agent, "depends_on": list(depends_on)}


def _long(_: ModelRequest, match: re.Match[str]) -> _Reply:
    return _Reply(" ".join(f"word{number}" for number in range(1, _count(match, 300) + 1)))


def _slow(_: ModelRequest, match: re.Match[str]) -> _Reply:
    return _Reply(" ".join(f"tick{number}" for number in range(1, _count(match, 10) + 1)), paused=True)


def _count(match: re.Match[str], default: int) -> int:
    return min(int(match[1]), 100_000) if match[1] else default


def _forbidden(_: ModelRequest, __: re.Match[str]) -> _Reply:
    """Call a tool that the agent lacks, or write where nobody may."""
    arguments = json.dumps({"path": "../outside.txt", "content": "This must not be written."})
    return _Reply("I try what I must not do.", (("write_file", arguments),))


def _bad_arguments(request: ModelRequest, _: re.Match[str]) -> _Reply:
    tool = next((tool.name for tool in request.tools if tool.name != SWITCH_AGENT.name), SWITCH_AGENT.name)
    return _Reply("I call a tool, but not in JSON.", ((tool, '{"path": "half a fi'),))


def _fails(error: type[errors.ModelError], text: str = "") -> "_Function":
    return lambda *_: _Reply(text, error=error)


def _calls(tool: str, argument: str) -> "_Function":
    return lambda request, match: _call(request, tool, {argument: match[1].strip()})


_Function = Callable[[ModelRequest, re.Match[str]], _Reply]

_TOOL_WORDS: tuple[tuple[str, _Function], ...] = (
    (r"\bwrite\s+([\w./~\\-]*[\w])(?::\s*(.+))?", _write),
    (r"\bedit\s+([\w./-]*\w)", _edit),
    (r"\bdelete\s+([\w./-]*\w)", _calls("delete_file", "path")),
    (r"\bread\s+([\w./-]*\w)", _calls("read_file", "path")),
    (r"\brun\s+(.+)", _calls("execute_command", "command")),
    (r"\bsearch\s+(?:for\s+)?(\S+)", _calls("search_files", "pattern")),
    (r"\blist\b()", lambda request, _: _call(request, "list_files", {})),
)

_WORDS: tuple[tuple[str, _Function], ...] = (
    (r"^the plan was sent back:?\s*(.*)", _plan_again),
    (r"^switch to (\w+)", _switch_to),
    (r"^(orchestrator|coder|architect|debug|ask|universal):", _switch_to),
    (r"^help\b", lambda *_: _Reply(HELP)),
    (r"^plan\b:?\s*(.*)", _plan),
    (r"^(?:both|three files)\b", _several),
    (r"^long\b\s*(\d{1,6})?", _long),
    (r"^slow\b\s*(\d{1,6})?", _slow),
    (r"^forbidden\b", _forbidden),
    (r"^bad arguments\b", _bad_arguments),
    (r"^fail\b", _fails(errors.ModelUnavailableError, "I begin an answer that will never")),
    (r"^rate limit\b", _fails(errors.ModelRateLimitedError)),
    (r"^refuse\b", _fails(errors.ModelRefusedError)),
    (r"^timeout\b", _fails(errors.ModelTimeoutError)),
    (r"^auth\b", _fails(errors.ModelAuthError)),
    *((f"^{pattern}", function) for pattern, function in _TOOL_WORDS),
)
