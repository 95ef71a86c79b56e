"""What Ctrl-C and SIGTERM ask of a server, from the first line of `serve` to its last: to end, in order.

The handlers of Python, of uvicorn and of an event loop come and go while a server starts and ends; between
two of them a second signal would end the process at once, and leave an embedded PostgreSQL behind. So there
is one handler for all of the time, and it knows what is being done.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Self

from application.signals import ENDING


class Stopped(BaseException):
    """Somebody asked us to end before there was anything to serve."""


class Stop:
    """Whether somebody has asked us to end.

    At first a signal raises `Stopped` wherever we are. Once it has, and after `hold`, signals are kept and no
    more; in a block of `told` they go to whoever can end what runs.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._is_held = False
        self._heard: list[int] = []
        self._tell: Callable[[int], object] | None = None

    def __enter__(self) -> Self:
        for number in ENDING:
            signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Hear nothing more: the interpreter's own end is not to be broken off either."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        return kind is not None and issubclass(kind, Stopped)

    def hold(self) -> None:
        """Raise nothing from here on: what runs now looks at `is_asked`, or is told."""
        self._is_held = True

    @contextmanager
    def told(self, whom: Callable[[int], object]) -> Iterator[None]:
        """Call `whom` in the running loop with each signal, and with those that have come already."""
        loop = asyncio.get_running_loop()
        self._tell = lambda number: loop.call_soon_threadsafe(whom, number)
        try:
            self._pass_on()
            yield
        finally:
            self._tell = None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard.append(number)
        is_first, self.is_asked = not self.is_asked, True
        if is_first and not self._is_held:
            raise Stopped
        self._pass_on()

    def _pass_on(self) -> None:
        with suppress(IndexError):  # the next signal may come, and take the last one, just here
            while self._tell:
                self._tell(self._heard.pop(0))
