"""Which events an auditor wants, and what is wrong with how it was said."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final
from unicodedata import category

from application.errors import InvalidFilterError
from application.event_types import EVENT_TYPES
from application.protocol import is_id

MOST: Final = 2**63 - 1
# Control characters, halves of surrogate pairs, and what ends a line. What joins letters is a part of words.
_NOT_IN_A_LINE: Final = ("Cc", "Cs", "Zl", "Zp")
# A + that nobody has escaped comes out of an address as a space.
_LOST_PLUS: Final = re.compile(r"(:\d\d\S*) (?=\d\d:?\d\d\Z)")
_TIMES: Final = "a time as 2026-03-01, 2026-03-01T09:00 or 2026-03-01T09:00:00+01:00"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None or nothing is any. All that is given has to hold.

    `after` and `before` are positions, both left out; `since` is a time that is included, `until` one
    that is not. `text` is looked for in what the event itself says, in any case; `about` is an agent that
    the event names, as the one it concerns or the one it goes to.
    """

    conversation: str | None = None
    stream: str | None = None
    types: tuple[str, ...] = ()
    actor: str | None = None
    tool: str | None = None
    turn: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    before: int | None = None
    text: str | None = None
    about: str | None = None
    newest_first: bool = False

    @property
    def is_by_content(self) -> bool:
        """Whether an event has to be read to know whether it fits."""
        return self.text is not None or self.about is not None

    def fits(self, data: Mapping[str, Any]) -> bool:
        """Whether what an event says fits; all else is not asked."""
        names = self.about is None or self.about in (data.get("agent"), data.get("to"))
        return names and (self.text is None or mentions(data, self.text.casefold()))


def event_filter(
    *,
    conversation: str | None = None,
    stream: str | None = None,
    types: Sequence[str] = (),
    actor: str | None = None,
    agent: str | None = None,
    tool: str | None = None,
    turn: str | None = None,
    since: str | None = None,
    until: str | None = None,
    after: int | None = None,
    before: int | None = None,
    text: str | None = None,
    order: str = "asc",
) -> EventFilter:
    """Return the filter that these words ask for. Raises `InvalidFilterError`."""
    wanted = EventFilter(
        conversation=_checked("conversation", conversation, is_id, "it is no id of a conversation"),
        stream=_checked("stream", stream, _is_stream, "it reads conversation-<id> or agent-<id>"),
        types=_types(types),
        actor=_actor("actor", actor) or _actor("agent", None if agent is None else f"agent:{agent}"),
        tool=_text("tool", tool),
        turn=_checked("turn", turn, is_id, "it is no id of a turn"),
        since=time_of("from", since),
        until=time_of("to", until),
        after=_position("after", after),
        before=_position("before", before),
        text=_text("text", text),
        about=_about(actor, agent),
        newest_first=_is_descending(order),
    )
    _refuse_empty_ranges(wanted)
    return wanted


def _checked(name: str, given: str | None, is_right: Any, otherwise: str) -> str | None:
    if given is not None and not is_right(given):
        raise InvalidFilterError(name=name, reason=otherwise)
    return given


def _is_stream(name: str) -> bool:
    kind, dash, rest = name.partition("-")
    return bool(dash) and kind in ("conversation", "agent") and is_id(rest)


def _types(globs: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for glob in globs:
        matching = [name for name in EVENT_TYPES if fnmatchcase(name, glob)]
        if not matching:
            like = next((name for name in EVENT_TYPES if fnmatchcase(name, f"*.{glob}")), EVENT_TYPES[1])
            reason = f"no event type is called {glob[:80]!r}; they read as {like}, and * is anything"
            raise InvalidFilterError(name="type", reason=reason)
        found |= dict.fromkeys(matching)
    return tuple(found) if len(found) < len(EVENT_TYPES) else ()


def _actor(name: str, given: str | None) -> str | None:
    if given is not None and not re.fullmatch(r"system|(user|agent):[^\s\x00]+", given):
        raise InvalidFilterError(name=name, reason="it reads user:<subject>, agent:<name> or system")
    return given


def _about(actor: str | None, agent: str | None) -> str | None:
    """Return the agent that events of this actor are to be about; alone, an agent is an actor itself."""
    by = _actor("agent", None if agent is None else f"agent:{agent}")
    return agent if actor not in (None, by) and by is not None else None


def _text(name: str, given: str | None) -> str | None:
    if given is None:
        return None
    if not given or any(category(sign) in _NOT_IN_A_LINE for sign in given):
        raise InvalidFilterError(name=name, reason="it is a text of one line that is not empty")
    return given


def _position(name: str, given: int | None) -> int | None:
    if given is not None and not 0 <= given <= MOST:
        raise InvalidFilterError(name=name, reason="it is a position, a whole number from 0 on")
    return given


def time_of(name: str, given: str | None) -> datetime | None:
    """Return a time, in UTC where it names no zone. Raises `InvalidFilterError`."""
    if given is None:
        return None
    time = _time(given)
    if time is None:
        raise InvalidFilterError(name=name, reason=f"it is {_TIMES}")
    return time


def _time(given: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+", given))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def place_of(name: str, given: str) -> int | datetime:
    """Return a position (a whole number) or a time. Raises `InvalidFilterError`."""
    if given.isascii() and given.isdigit():
        return _position(name, int(given[:20])) or 0
    time = _time(given)
    if time is None:
        raise InvalidFilterError(name=name, reason=f"it is a position (a whole number), or {_TIMES}")
    return time


def _is_descending(order: str) -> bool:
    if order not in ("asc", "desc"):
        raise InvalidFilterError(name="order", reason="it is asc or desc")
    return order == "desc"


def _refuse_empty_ranges(wanted: EventFilter) -> None:
    if wanted.since and wanted.until and wanted.since >= wanted.until:
        raise InvalidFilterError(name="to", reason="it has to be later than from")
    if wanted.after is not None and wanted.before is not None and wanted.after >= wanted.before - 1:
        raise InvalidFilterError(name="before", reason="no position lies between after and before")


def mentions(value: Any, folded: str) -> bool:
    """Whether a JSON value says this (casefolded) anywhere: in its texts, its keys or its numbers."""
    if isinstance(value, str):
        return folded in value.casefold()
    if isinstance(value, Mapping):
        return any(folded in key.casefold() or mentions(item, folded) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(mentions(item, folded) for item in value)
    return value is not None and folded in str(value).casefold()
