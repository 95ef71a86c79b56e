"""What the folds share: the names of all events, and values as the tables can hold them.

The columns of read models are text, bigint, boolean and timestamptz, and int[], which is bytes to a fold: its
numbers as PostgreSQL sends them, each after its length. What else is a list or an object is JSON in a text
column: `jsonb` would round numbers and sort keys, and the order of a tool's arguments is what the person sees
who decides on them.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from application.event_types import EVENT_TYPES


def _encoder() -> Callable[[Any], str]:
    """Return `json.dumps` for compact JSON; the encoder in C is made once, and not for every value."""
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python
        return encoder.encode
    pieces = make(None, encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, True)
    return lambda value: "".join(pieces(value, 0))


_ENCODE: Final = _encoder()
# Compact JSON has no whitespace around it: nothing needs to be skipped before or after.
_SCAN: Final[Callable[[str, int], tuple[Any, int]]] = vars(json.JSONDecoder())["scan_once"]
_ENCODE_ESCAPED: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


ERASURE: Final = "conversation.erased"
EVERY_EVENT: Final = frozenset(EVENT_TYPES)


def owner_of(actor: str) -> str:
    """Return the subject that a conversation belongs to, from the actor of its first event."""
    return plain_text(actor.removeprefix("user:"))


def plain_text(text: str) -> str:
    """Return the text as PostgreSQL can hold it; the log can hold a little more than that."""
    if text.isascii() and "\x00" not in text:
        return text
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def to_json(value: Any) -> str:
    """Return compact JSON; what text cannot hold is escaped in it."""
    text = _ENCODE(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ENCODE_ESCAPED(value)
    return text


def from_json(text: str) -> Any:
    """Read what `to_json` wrote, or the log's mapper. Raises `ValueError` where it is no JSON."""
    try:
        return _SCAN(text, 0)[0]
    except StopIteration:  # which whoever maps over rows would take for their end
        raise ValueError("it is no JSON") from None


def named(event: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return these fields of an event."""
    return {name: event[name] for name in names}
