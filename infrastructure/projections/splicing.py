"""What an event says, as a read model keeps it: copied from the stored JSON, where nothing else is needed.

To decode what a tool answered and to encode it again takes longer than all else that a rebuild does with it.
The stored text of an event is what encoding gives, so a part of it is what encoding that part would give, or
says the same in escapes: where a text has half a surrogate pair in it, all of the event is stored in escapes.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from application.ports import LoggedEvent
from infrastructure.projections.values import named, to_json

quoted: Final[Callable[[str], str]] = json.encoder.encode_basestring
# A member at the end is the object's own and no inner one's: the brace behind it is the text's last one.
_CALL_ID: Final = re.compile(r'\{"call_id":"([^"\\]+)"')
_RESULT: Final = re.compile(r'\{"call_id":"[^"\\]+","tool":"[^"\\]*",("result":.*,"error":null)\}', re.DOTALL)
_APPROVAL: Final = re.compile(
    r'\{"call_id":"[^"\\]+","tool":"[^"\\]*",("arguments":.*,"feedback":null)\}', re.DOTALL
)
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
_KEPT: Final = 1_000  # ends of messages that are remembered: there are a few
_scan_string: Final[Callable[[str, int], tuple[str, int]]] = vars(json.decoder)["scanstring"]


# What somebody said: the agent, the content, and the detail, which is JSON.
Message = tuple[str | None, str, str]


# A call that was asked for: its id, the agent, whether somebody has to decide, and the detail, which is JSON.
Request = tuple[str, str, bool, str]


def _stored(event: LoggedEvent) -> str:
    """Return the stored text, empty where there is none."""
    text: str = getattr(event, "text", "")
    return text


@lru_cache(_KEPT)
def _rest(role: str, text: str) -> str | None:
    """Return the members behind what a message says, None where they are others than expected."""
    found = _RESTS[role].fullmatch(text)
    return found and found[1]


def message_of(event: LoggedEvent, role: str, *names: str) -> Message:
    """Return what was said; `names` are the members that its detail has beside the message's id."""
    text = _stored(event)
    if begin := _SAID.match(text):
        content, end = _scan_string(text, begin.end())
        rest = _rest(role, text[end:])
        if rest is not None:
            message_id, agent = begin.groups()
            return agent, content, f'{{"role":"{role}","message_id":{message_id}{rest}}}'
    data = event.data
    detail = {"role": role, **named(data, "message_id", *names)}
    return data.get("agent"), data["content"], to_json(detail)


def request_of(event: LoggedEvent) -> Request:
    """Return what a call asks for."""
    if found := _REQUEST.fullmatch(_stored(event)):
        begin, call_id, agent, end, requires_decision = found.groups()
        return call_id, agent, requires_decision == "true", begin + end
    data = event.data
    asked = named(data, "call_id", "model_call_id", "tool", "arguments", "requires_decision", "rule")
    return data["call_id"], data["agent"], data["requires_decision"], to_json(asked)


def result_of(event: LoggedEvent) -> str:
    """Return what a call has led to: members of a JSON object, without its braces."""
    found = _RESULT.fullmatch(_stored(event))
    return found[1] if found else members(named(event.data, "result", "error"))


def approval_of(event: LoggedEvent) -> str:
    """Return what an approval lets a call do: members of a JSON object, without its braces."""
    found = _APPROVAL.fullmatch(_stored(event))
    return found[1] if found else members(named(event.data, "arguments", "feedback"))


def call_of(event: LoggedEvent) -> str:
    """Return the id of the call that this is about."""
    found = _CALL_ID.match(_stored(event))
    return found[1] if found else str(event.data["call_id"])


def members(said: dict[str, Any]) -> str:
    """Return the members of a JSON object, without its braces."""
    return to_json(said)[1:-1]
