"""What an event says, as a read model keeps it: copied from the stored JSON, where nothing else is needed.

To decode what a tool answered and to encode it again takes longer than all else that a rebuild does with it.
The stored text of an event is what encoding gives, so a part of it is what encoding that part would give.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from application.ports import LoggedEvent
from infrastructure.projections.values import named, to_json

quoted: Final[Callable[[str], str]] = json.encoder.encode_basestring
# A member at the end is the object's own and no inner one's: the brace behind it is the text's last one.
_CALL_ID: Final = re.compile(r'\{"call_id":"([^"\\]+)"')
_RESULT: Final = re.compile(r'\{"call_id":"[^"\\]+","tool":"[^"\\]*",("result":.*,"error":null)\}', re.DOTALL)
_REQUEST: Final = re.compile(
    r'(\{"call_id":"([^"\\]+)",.*),"agent":"([^"\\]*)"'
    r'(,"requires_decision":(true|false),"rule":(?:null|"[^"\\]*")\})',
    re.DOTALL,
)
# What a message says is decoded, as it is looked for and shown; the rest is copied.
_SAID: Final = re.compile(r'\{"message_id":("[^"\\]*"),(?:"agent":"([^"\\]*)",)?"content":"')
_RESTS: Final = {
    "user": re.compile(r"()\}"),
    "assistant": re.compile(r'(,"truncated":(?:true|false),"finish_reason":"[^"\\]*")\}'),
}
_scan_string: Final[Callable[[str, int], tuple[str, int]]] = vars(json.decoder)["scanstring"]


class Message(NamedTuple):
    """What somebody said; `detail` is JSON."""

    agent: str | None
    content: str
    detail: str


class Request(NamedTuple):
    """A call that was asked for; `detail` is JSON."""

    call_id: str
    agent: str
    requires_decision: bool
    detail: str


def _stored(event: LoggedEvent) -> str:
    """Return the stored text, empty where it may not be what encoding would give today.

    Where a text has half a surrogate pair in it, all is stored in escapes.
    """
    text: str = getattr(event, "text", "")
    return "" if "\\u" in text else text


def message_of(event: LoggedEvent, role: str, *names: str) -> Message:
    """Return what was said; `names` are the members that its detail has beside the message's id."""
    text = _stored(event)
    if begin := _SAID.match(text):
        content, end = _scan_string(text, begin.end())
        if rest := _RESTS[role].fullmatch(text, end):
            return Message(begin[2], content, f'{{"role":"{role}","message_id":{begin[1]}{rest[1]}}}')
    data = event.data
    detail = {"role": role, **named(data, "message_id", *names)}
    return Message(data.get("agent"), data["content"], to_json(detail))


def request_of(event: LoggedEvent) -> Request:
    """Return what a call asks for."""
    if found := _REQUEST.fullmatch(_stored(event)):
        begin, call_id, agent, end, requires_decision = found.groups()
        return Request(call_id, agent, requires_decision == "true", begin + end)
    data = event.data
    asked = named(data, "call_id", "model_call_id", "tool", "arguments", "requires_decision", "rule")
    return Request(data["call_id"], data["agent"], data["requires_decision"], to_json(asked))


def result_of(event: LoggedEvent) -> str:
    """Return what a call has led to: members of a JSON object, without its braces."""
    found = _RESULT.fullmatch(_stored(event))
    return found[1] if found else members(named(event.data, "result", "error"))


def answered_call(event: LoggedEvent) -> str:
    """Return the id of the call that this is the result of."""
    found = _CALL_ID.match(getattr(event, "text", ""))
    return found[1] if found else str(event.data["call_id"])


def members(said: dict[str, Any]) -> str:
    """Return the members of a JSON object, without its braces."""
    return to_json(said)[1:-1]
