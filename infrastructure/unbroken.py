"""Work that no signal may break off in its middle."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from application.signals import ENDING


@contextmanager
def unbroken() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block; then they do what they would have done.

    Only the main thread hears signals: in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: dict[int, None] = {}
    before = {number: signal.signal(number, lambda one, _: heard.setdefault(one)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in heard:
            signal.raise_signal(one)
