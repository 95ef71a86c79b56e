"""What a model said, and how it becomes events."""

import json
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Final

from application.agents import MAX_TOOL_NAME, AgentProfile
from application.ids import new_call_id, new_id
from application.language_model import Finished, ToolCall
from application.our_tools import OURS, answer_our_tool, use_our_tool
from application.policy import Verdict
from application.ports import UnitOfWork
from application.protocol import storable
from application.texts import storable_text
from application.turn import SYSTEM, Kit, Turn
from domain.aggregate import By
from domain.errors import MinutebookError

# Characters of a model's own id for its call, more than any provider makes.
MAX_MODEL_CALL_ID: Final = 255


@dataclass(slots=True)
class Answer:
    """What one model call has said so far."""

    agent: str
    message_id: str = field(default_factory=new_id)
    text: StringIO = field(default_factory=StringIO)
    bytes: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    finished: Finished | None = None
    truncated: bool = False
    # The limit that ended it early.
    limit: MinutebookError | None = None

    @property
    def broken_off(self) -> str | None:
        """Why it ended early, if it did: a limit's code, or `cancelled`."""
        if self.limit:
            return self.limit.code
        return "cancelled" if self.truncated else None


def record(answer: Answer, profile: AgentProfile, work: UnitOfWork, turn: Turn, kit: Kit) -> bool:
    """Record the answer; returns whether the model is to be asked again in the same turn.

    Raises the limit that ended it where nothing was said, and in a plan, which cannot go on.
    """
    by = turn.by_agent(work)
    text = answer.text.getvalue()
    if answer.limit:
        if text:
            _send(answer, text, answer.limit.code, work, by)
        if not text or work.conversation.plan_in("execution"):
            raise answer.limit
        return False
    if answer.truncated:
        if text:
            _send(answer, text, "cancelled", work, by)
        work.conversation.cancel_turn(turn.by)
        return False
    if text or not answer.calls:
        _send(answer, text, answer.finished.reason if answer.finished else "unknown", work, by)
    _record_client_calls(answer, profile, work, kit, by)
    for call in answer.calls:
        if call.tool in OURS:
            _use_ours(call, work, turn, kit, by)
    return bool(answer.calls) and work.conversation.agent_may_go_on


def _send(answer: Answer, text: str, reason: str, work: UnitOfWork, by: By) -> None:
    work.conversation.send_assistant_message(
        answer.message_id, answer.agent, text, reason, by, truncated=answer.truncated
    )


def _use_ours(call: ToolCall, work: UnitOfWork, turn: Turn, kit: Kit, by: By) -> None:
    ids = (new_call_id(), _their_id(call))
    arguments, refusal = _arguments(call, kit)
    if refusal:
        answer_our_tool(call.tool, ids, {}, refusal.reason, work, turn)
    else:
        use_our_tool(call.tool, ids, arguments, work, turn, kit, by)


def _record_client_calls(answer: Answer, profile: AgentProfile, work: UnitOfWork, kit: Kit, by: By) -> None:
    """Record the calls the client is to run, in order, then close those that are forbidden."""
    forbidden: list[tuple[str, Verdict]] = []
    for call in answer.calls:
        if call.tool in OURS:
            continue
        tool = storable_text(call.tool)[:MAX_TOOL_NAME]  # a longer one is nobody's tool
        arguments, refusal = _arguments(call, kit)
        verdict = refusal or kit.policy.judge(profile, tool, arguments)
        call_id = new_call_id()
        asked = {
            "model_call_id": _their_id(call),
            "tool": tool,
            "arguments": arguments,
            "agent": profile.name,
            "requires_decision": verdict.kind != "free",
            "rule": verdict.rule,
        }
        work.conversation.request_call(call_id, asked, by)
        if verdict.kind == "forbidden":
            forbidden.append((call_id, verdict))
    for call_id, verdict in forbidden:
        work.conversation.close_call(call_id, "forbidden", By(SYSTEM, by.turn_id), verdict.reason)


def _their_id(call: ToolCall) -> str:
    return storable_text(call.model_call_id)[:MAX_MODEL_CALL_ID]


def _arguments(call: ToolCall, kit: Kit) -> tuple[Any, Verdict | None]:
    """Return a call's arguments, and why they cannot be taken, if so; what is no object is kept as text."""
    if len(call.arguments.encode("utf-8", "replace")) > kit.limits.message_bytes:
        reason = f"The arguments are larger than {kit.limits.message_bytes} bytes."
        return {}, Verdict("forbidden", "arguments_too_large", reason)
    arguments = parsed_arguments(call.arguments)
    if arguments is None:
        reason = "The arguments are not a JSON object; call the tool again with valid arguments."
        return storable_text(call.arguments), Verdict("forbidden", "invalid_arguments", reason)
    return arguments, None


def parsed_arguments(text: str) -> dict[str, Any] | None:
    """Return a call's arguments, or None where they are no JSON object that the log can keep."""
    try:
        arguments = storable(json.loads(text or "{}"))
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
