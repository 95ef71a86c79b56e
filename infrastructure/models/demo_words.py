"""The demo's words and what they do: the table at the end is all it understands."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from application import errors
from application.agents import PROPOSE_PLAN, SWITCH_AGENT
from application.language_model import ModelRequest, Said

HELP = """\
I am the demo model: no provider, no key, only a few plain words. Say
- read FILE, list, search WORD: I look at your files
- write FILE, edit FILE, delete FILE, run COMMAND: I ask to change something, and you decide
- both, three files: several calls in one answer
- plan GOAL: the architect proposes a plan for you to approve, send back or reject
- switch to AGENT, or AGENT: TEXT (coder: write hello.py)
- long 500: a long answer; slow 10: an answer with pauses
- forbidden, bad arguments: calls that cannot be carried out
- fail, rate limit, refuse, timeout, auth: errors of a model"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer: a text, then calls (tool, arguments as text), then perhaps an error."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    error: type[errors.ModelError] | None = None
    paused: bool = False


def short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def subtask(request: ModelRequest, text: str) -> Reply:
    """Do a subtask of a plan: with a tool where its words name one, else by saying so."""
    description = re.sub(r"^Subtask[^:]*:\s*", "", text)
    for pattern, function in _TOOL_WORDS:
        match = re.search(pattern, description, re.IGNORECASE)
        reply = function(request, match) if match else Reply()
        if reply.calls and reply.calls[0][0] != SWITCH_AGENT.name:  # a subtask stays with its agent
            return reply
    return Reply(f"Done: {short(description)}")


def handed_over(request: ModelRequest, text: str, result: str) -> Reply:
    """Go on as the agent that was switched to; nobody hands over twice for the same words."""
    rest = re.sub(r"^(?:switch to (\w+)(?: and)?|(\w+):)\s*", "", text, flags=re.IGNORECASE)
    if not rest:
        return Reply(f"This is {request.agent} now. What shall I do?")
    reply = by_words(request, rest)
    if any(tool == SWITCH_AGENT.name for tool, _ in reply.calls):
        return Reply(f"This is {request.agent}; I could not hand over any further. {short(result)}")
    return reply


# --- words and what they do ----------------------------------------------------------------------


def by_words(request: ModelRequest, text: str) -> Reply:
    for pattern, function in _WORDS:
        if match := re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return function(request, match)
    return Reply(f"You said: {short(text)}\nI am only the demo model. Say help to see what I understand.")


def _call(request: ModelRequest, tool: str, *several: dict[str, Any]) -> Reply:
    """Call a tool once for each set of arguments, or hand over to an agent that has it."""
    if any(known.name == tool for known in request.tools):
        calls = tuple((tool, json.dumps(arguments, ensure_ascii=False)) for arguments in several)
        return Reply(f"I call {tool}{f' {len(calls)} times' if len(calls) > 1 else ''}.", calls)
    agent = {"propose_plan": "architect"}.get(tool, "coder")
    return _switch(request, agent, f"{request.agent} has no tool {tool}")


def _switch(request: ModelRequest, agent: str, reason: str) -> Reply:
    tool = next((tool for tool in request.tools if tool.name == SWITCH_AGENT.name), None)
    known = tool.parameters["properties"]["agent"].get("enum", [agent]) if tool else []
    if agent not in known or agent == request.agent:
        return Reply(f"This is {request.agent}, and I cannot hand over to {agent}.")
    arguments = json.dumps({"agent": agent, "reason": reason}, ensure_ascii=False)
    return Reply(f"I hand over to {agent}.", ((SWITCH_AGENT.name, arguments),))


def _switch_to(request: ModelRequest, match: re.Match[str]) -> Reply:
    agent = match[1].lower()
    if agent == request.agent:
        return handed_over(request, match.string, "")
    return _switch(request, agent, "you asked for it")


def _write(request: ModelRequest, match: re.Match[str]) -> Reply:
    content = match[2] or f"This is {match[1]}, written by the demo model.\n"
    return _call(request, "write_file", {"path": match[1], "content": content})


def _edit(request: ModelRequest, match: re.Match[str]) -> Reply:
    return _call(request, "edit_file", {"path": match[1], "old_text": "demo model", "new_text": "Demo Model"})


def _several(request: ModelRequest, match: re.Match[str]) -> Reply:
    names = ["one.txt", "two.txt", "three.txt"][: 2 if match[0].lower() == "both" else 3]
    if any(tool.name == "write_file" for tool in request.tools):
        return _call(request, "write_file", *({"path": name, "content": f"{name}\n"} for name in names))
    return _call(request, "read_file", *({"path": name} for name in names))


def _plan(request: ModelRequest, match: re.Match[str]) -> Reply:
    return _propose(request, match[1])


def _plan_again(request: ModelRequest, _: re.Match[str]) -> Reply:
    """Propose the newest plan again, with each feedback that it got as one more step."""
    goal, feedbacks = "", list[str]()
    for said in (message.content for message in request.messages if isinstance(message, Said)):
        if match := re.search(r"^(?:\w+:\s*)?plan\b:?\s*(.*)", said, re.IGNORECASE | re.DOTALL):
            goal, feedbacks = match[1], []
        elif match := re.search(_SENT_BACK, said, re.IGNORECASE | re.DOTALL):
            feedbacks.append(match[1].strip() or "as you like it")
    return _propose(request, goal, *feedbacks)


def _propose(request: ModelRequest, goal: str, *feedbacks: str) -> Reply:
    goal = goal.strip(" .\n") or "a small file"
    subtasks = [
        _step(1, f"Read README.md to see what is there for: {goal}", "ask"),
        _step(2, f"Write result.txt: {goal}", "coder", 1),
        _step(3, f"Check the result: {goal}", "debug", 1, 2),
    ]
    for number, feedback in enumerate(feedbacks, 4):
        subtasks.append(_step(number, f"Work in what you said: {feedback}", "coder", number - 1))
    return _call(request, PROPOSE_PLAN.name, {"goal": goal, "subtasks": subtasks})


def _step(number: int, description: str, agent: str, *after: int) -> dict[str, Any]:
    depends_on = [str(other) for other in after]
    return {"id": str(number), "description": description, "agent": agent, "depends_on": depends_on}


def _long(_: ModelRequest, match: re.Match[str]) -> Reply:
    return Reply(" ".join(f"word{number}" for number in range(1, _count(match, 300) + 1)))


def _slow(_: ModelRequest, match: re.Match[str]) -> Reply:
    return Reply(" ".join(f"tick{number}" for number in range(1, _count(match, 10) + 1)), paused=True)


def _count(match: re.Match[str], default: int) -> int:
    return min(int(match[1]), 100_000) if match[1] else default


def _forbidden(_: ModelRequest, __: re.Match[str]) -> Reply:
    """Call a tool that the agent lacks, or write where nobody may."""
    arguments = json.dumps({"path": "../outside.txt", "content": "This must not be written."})
    return Reply("I try what I must not do.", (("write_file", arguments),))


def _bad_arguments(request: ModelRequest, _: re.Match[str]) -> Reply:
    tool = next((tool.name for tool in request.tools if tool.name != SWITCH_AGENT.name), SWITCH_AGENT.name)
    return Reply("I call a tool, but not in JSON.", ((tool, '{"path": "half a fi'),))


def _fails(error: type[errors.ModelError], text: str = "") -> "_Function":
    return lambda *_: Reply(text, error=error)


def _calls(tool: str, argument: str) -> "_Function":
    return lambda request, match: _call(request, tool, {argument: match[1].strip()})


_Function = Callable[[ModelRequest, re.Match[str]], Reply]

_SENT_BACK = r"^the plan was sent back:?\s*(.*)"

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
    (_SENT_BACK, _plan_again),
    (r"^the plan was rejected", lambda *_: Reply("Understood, I drop the plan.")),
    (r"^all subtasks of the plan", lambda *_: Reply("The plan is carried out; all its subtasks are done.")),
    (r"^switch to (\w+)", _switch_to),
    (r"^(orchestrator|coder|architect|debug|ask|universal):", _switch_to),
    (r"^help\b", lambda *_: Reply(HELP)),
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
