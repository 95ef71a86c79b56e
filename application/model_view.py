"""What the model gets to see: the newest whole exchanges up to a budget, always well formed.

Well formed means: every call is followed by exactly one result before anything else is said, no
result stands without its call, no id stands for two calls, and a person speaks first.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from application.ports import CallMade, ModelMessage, ResultGiven, Said
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation

LEFT_OUT = "[Earlier messages of this conversation are left out.]"


async def recent_events(newest_first: AsyncIterator[MinuteEvent], budget: int) -> list[MinuteEvent]:
    """Return the newest whole exchanges of about `budget` tokens, oldest event first.

    Reads no further back than the budget reaches. One exchange larger than the budget is cut, but
    never between a result and its call: the model would not get to see the result.
    """
    taken: list[MinuteEvent] = []
    without_call: set[str] = set()
    whole = used = 0
    async for one in newest_first:
        taken.append(one)
        used += _tokens(one)
        if isinstance(one, Conversation.ToolCallRequested):
            without_call.discard(one.call_id)
        elif about := _result(one):
            without_call.add(about[0])
        if used > budget and not without_call:
            break
        if isinstance(one, Conversation.UserMessageReceived | Conversation.Started):
            whole = len(taken)
    return list(reversed(taken[:whole] if whole else taken))


def model_messages(events: Sequence[MinuteEvent]) -> list[ModelMessage]:
    """Turn events, oldest first, into the messages of a model request."""
    results = {about[0]: about[1] for event in events if (about := _result(event))}
    messages: list[ModelMessage] = []
    used_ids: set[str] = set()
    group: list[Conversation.ToolCallRequested] = []
    for event in events:
        if isinstance(event, Conversation.ToolCallRequested):
            group.append(event)
        elif (said := _said(event)) or _result(event):
            messages += _answered(group, results, used_ids)
            group = []
            if said:
                messages.append(said)
    messages += _answered(group, results, used_ids)
    if not messages or not isinstance(messages[0], Said) or messages[0].role != "user":
        messages.insert(0, Said("user", LEFT_OUT))
    return messages


def _answered(
    calls: Iterable[Conversation.ToolCallRequested], results: Mapping[str, str], used_ids: set[str]
) -> list[ModelMessage]:
    """Return the calls of one answer, then the one result of each."""
    made: list[ModelMessage] = []
    given: list[ModelMessage] = []
    for call in calls:
        # Models reuse their ids within a conversation; the second call of a name goes by ours.
        theirs = call.model_call_id if call.model_call_id not in used_ids else ""
        call_id = theirs or call.call_id
        used_ids.add(call_id)
        made.append(CallMade(call_id, call.tool, _arguments_text(call.arguments)))
        given.append(ResultGiven(call_id, call.tool, results.get(call.call_id, "There is no result yet.")))
    return made + given


def _arguments_text(arguments: Any) -> str:
    # Arguments that were not JSON are kept as the text they were; a model view needs an object.
    return json.dumps(arguments if isinstance(arguments, dict) else {"text": arguments}, ensure_ascii=False)


def _result(event: MinuteEvent) -> tuple[str, str] | None:
    """Return the call and the text of its result where the event gives one."""
    if isinstance(event, Conversation.ToolResultReceived):
        return event.call_id, f"Error: {event.error}" if event.error is not None else _text(event.result)
    if isinstance(event, Conversation.ToolCallRejected):
        return event.call_id, f"A person rejected this call. {event.feedback or ''}".strip()
    if isinstance(event, Conversation.ToolCallClosed):
        return event.call_id, f"This call was not run ({event.reason}). {event.detail or ''}".strip()
    return None


def _said(event: MinuteEvent) -> Said | None:
    """Return what the event says to the model where it says something."""
    if type(event) not in _SAYINGS:
        return None
    role, text = _SAYINGS[type(event)]
    said = text.format_map(_Readable(event)).strip()
    return Said(role, said) if said else None


class _Readable(dict[str, Any]):
    """The fields of an event as texts, each made when it is asked for; what is None reads as nothing."""

    def __init__(self, event: MinuteEvent) -> None:
        super().__init__()
        self._fields = vars(event)

    def __missing__(self, name: str) -> str:
        value = self._fields[name]
        return "" if value is None else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_SAYINGS: Mapping[type[MinuteEvent], tuple[Any, str]] = {
    Conversation.UserMessageReceived: ("user", "{content}"),
    Conversation.AssistantMessageSent: ("assistant", "{content}"),
    Conversation.ToolCallEdited: (
        "user",
        "I changed the arguments of {tool} to {arguments_after}. {feedback}",
    ),
    Conversation.PlanProposed: ("assistant", "I propose this plan: {goal}\n{subtasks}"),
    Conversation.PlanApproved: ("user", "The plan was approved. {feedback}"),
    Conversation.PlanModificationRequested: ("user", "The plan was sent back: {feedback}"),
    Conversation.PlanRejected: ("user", "The plan was rejected. {feedback}"),
    Conversation.SubtaskStarted: ("user", "Subtask {subtask_id}: {description}"),
    Conversation.PlanCompleted: ("user", "All subtasks of the plan are done."),
    Conversation.TurnCancelled: ("user", "[The person stopped the answer here.]"),
}


def _tokens(event: MinuteEvent) -> int:
    """Estimate what an event costs: four bytes a token, plus a little for its frame."""
    said = _said(event)
    text = said.content if said else _result_or_call_text(event)
    return len(text.encode("utf-8", "replace")) // 4 + 4


def _result_or_call_text(event: MinuteEvent) -> str:
    if isinstance(event, Conversation.ToolCallRequested):
        return _arguments_text(event.arguments)
    result = _result(event)
    return result[1] if result else ""
