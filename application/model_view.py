"""What the model gets to see: the newest whole exchanges up to a budget, always well formed.

Well formed means: every call is followed by exactly one result before anything else is said, no
result stands without its call, no id stands for two calls, and a person speaks first.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from application.language_model import CallMade, ModelMessage, ResultGiven, Said
from application.texts import storable_text
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation

LEFT_OUT = "[Earlier messages of this conversation are left out.]"


@dataclass(frozen=True, slots=True)
class Aside:
    """A call of one of our own tools: seen by the model for the length of a turn, and never stored.

    `after` is the version of the conversation when it was made: its place among the events.
    """

    after: int
    call_id: str
    model_call_id: str
    tool: str
    arguments: str
    said: str


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
        if isinstance(one, _BEGINNINGS):
            whole = len(taken)
    return list(reversed(taken[:whole] if whole else taken))


def model_messages(events: Sequence[MinuteEvent], asides: Sequence[Aside] = ()) -> list[ModelMessage]:
    """Turn events and asides, each oldest first, into the messages of a model request."""
    view = _View({about[0]: about[1] for event in events if (about := _result(event))})
    left = list(asides)
    for event in events:
        while left and left[0].after < event.originator_version:
            view.add_aside(left.pop(0))
        view.add_event(event)
    for aside in left:
        view.add_aside(aside)
    return view.finished()


class _View:
    """The messages of a request while they are put together, given the results of all calls."""

    def __init__(self, results: Mapping[str, str]) -> None:
        self._results = results
        self._messages: list[ModelMessage] = []
        self._used_ids: set[str] = set()
        self._group: list[Conversation.ToolCallRequested] = []

    def add_event(self, event: MinuteEvent) -> None:
        if isinstance(event, Conversation.ToolCallRequested):
            self._group.append(event)
        elif (said := _said(event)) or _result(event):
            self._close_group()
            if said:
                self._messages.append(said)

    def add_aside(self, aside: Aside) -> None:
        self._close_group()
        call_id = self._fresh_id(aside.model_call_id, aside.call_id)
        self._messages.append(CallMade(call_id, aside.tool, aside.arguments))
        self._messages.append(ResultGiven(call_id, aside.tool, aside.said))

    def finished(self) -> list[ModelMessage]:
        self._close_group()
        first = self._messages[0] if self._messages else None
        if not isinstance(first, Said) or first.role != "user":
            self._messages.insert(0, Said("user", LEFT_OUT))
        return self._messages

    def _close_group(self) -> None:
        """Add the calls of one answer, then the one result of each."""
        if not self._group:
            return
        given: list[ModelMessage] = []
        for call in self._group:
            call_id = self._fresh_id(call.model_call_id, call.call_id)
            self._messages.append(CallMade(call_id, call.tool, _arguments_text(call.arguments)))
            result = self._results.get(call.call_id, "There is no result yet.")
            given.append(ResultGiven(call_id, call.tool, result))
        self._messages += given
        self._group = []

    def _fresh_id(self, theirs: str, ours: str) -> str:
        # Models reuse their ids within a conversation; the second call of a name goes by ours.
        call_id = ours if not theirs or theirs in self._used_ids else theirs
        self._used_ids.add(call_id)
        return call_id


def _arguments_text(arguments: Any) -> str:
    # Arguments that were not JSON are kept as the text they were; a model view needs an object.
    return json.dumps(arguments if isinstance(arguments, dict) else {"text": arguments}, ensure_ascii=False)


def _result(event: MinuteEvent) -> tuple[str, str] | None:
    """Return the call and the text of its result where the event gives one."""
    if type(event) in _SAYINGS:  # most do, and give none
        return None
    if isinstance(event, Conversation.ToolResultReceived):
        return event.call_id, f"Error: {event.error}" if event.error is not None else _text(event.result)
    if isinstance(event, Conversation.ToolCallRejected):
        return event.call_id, f"A person rejected this call. {event.feedback or ''}".strip()
    if isinstance(event, Conversation.ToolCallClosed):
        # Halves of surrogate pairs came into logs by the names of tools, and no request can carry them.
        detail = storable_text(event.detail or "")
        return event.call_id, f"This call was not run ({event.reason}). {detail}".strip()
    return None


def _said(event: MinuteEvent) -> Said | None:
    """Return what the event says to the model where it says something."""
    said = _text_said(event)
    return Said(_SAYINGS[type(event)][0], said) if said else None


def _text_said(event: MinuteEvent) -> str:
    """Return the text that the event says to the model, empty where it says nothing."""
    _, text = _SAYINGS.get(type(event), _NOTHING)
    # Most events say their content and no more: a turn goes through a hundred of them.
    if text is _CONTENT and isinstance(content := vars(event)["content"], str):
        return content.strip()
    return text.format_map(_Readable(event)).strip() if text else ""


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


_BEGINNINGS = (Conversation.UserMessageReceived, Conversation.Started)
_CONTENT = "{content}"
_NOTHING = ("", "")
_SAYINGS: Mapping[type[MinuteEvent], tuple[Any, str]] = {
    Conversation.UserMessageReceived: ("user", _CONTENT),
    Conversation.AssistantMessageSent: ("assistant", _CONTENT),
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
    text = _text_said(event) or _result_or_call_text(event)
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return size // 4 + 4


def _result_or_call_text(event: MinuteEvent) -> str:
    if isinstance(event, Conversation.ToolCallRequested):
        return _arguments_text(event.arguments)
    result = _result(event)
    return result[1] if result else ""
