"""What a process still remembers: the texts that its objects and its running functions can reach."""

import gc
import re
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

TEXTS = (str, bytes, bytearray, memoryview)
CONTAINERS = (dict, tuple, list, set, frozenset)


def holders_of(sign: str, pattern: str) -> list[str]:
    """Return what holds a text that the pattern is found in, which begins with the sign.

    The pattern should not be found in itself. Freed memory is not looked at, and neither is what only C code
    can reach.
    """
    gc.collect()
    sought = Sought(sign, pattern)
    found = [_told(one) for one in gc.get_objects() if sought.is_held_by(one)]
    for top in sys._current_frames().values():
        found += [f"{name} in {where}" for where, name, value in _locals(top) if sought.is_held_by([value])]
    return found


class Sought:
    """A pattern, and a sign without which it need not be looked for."""

    def __init__(self, sign: str, pattern: str) -> None:
        self._sign = sign
        self._pattern = re.compile(pattern)
        self._in_bytes = re.compile(pattern.encode())

    def is_held_by(self, holder: object) -> bool:
        """Say whether it is found in a text that the object itself refers to."""
        return any(self._is_in(text) for text in _texts(holder))

    def _is_in(self, text: Any) -> bool:
        if isinstance(text, str):
            return self._sign in text and self._pattern.search(text) is not None
        return self._in_bytes.search(text) is not None


def _told(holder: object) -> str:
    owners = sorted({type(one).__qualname__ for one in gc.get_referrers(holder)})
    return f"{getattr(holder, '__qualname__', type(holder).__qualname__)} held by {', '.join(owners)}"


def _texts(holder: object) -> Iterator[Any]:
    """Yield the texts it refers to, also through containers that the collector keeps no list of."""
    for one in gc.get_referents(holder):
        if isinstance(one, TEXTS):
            yield one
        elif isinstance(one, CONTAINERS) and not gc.is_tracked(one):
            yield from _texts(one)


def _locals(frame: FrameType | None) -> Iterator[tuple[str, str, object]]:
    while frame:
        where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        yield from ((where, name, value) for name, value in frame.f_locals.items())
        frame = frame.f_back
