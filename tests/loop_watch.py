"""A watch on an event loop: a thread asks the loop to answer, and notes what ran when it did not."""

import asyncio
import gc
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# How long a loop may be kept from its other tasks, in seconds.
LIMIT_S: Final = 0.25
STEP_S: Final = 0.02


class LoopWatch:
    """Watches the loop of the thread it is made in, from `__enter__` to `__exit__`.

    `blocks` has one text for each time the loop did not answer for `limit_s` although it was running: how
    long, and the stack that kept it. Time in which the machine gave the thread no processor does not count;
    where it does not tell, a crowded machine is given that much more time. Nor does garbage collection, nor
    a machine that stood still: the watching thread was late, too, and the process had done nothing. What the
    thread computed counts as what it would have taken on a machine of its own, about, and so does what
    another one computed while this one waited, which held the interpreter; what it slept, in full.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float = LIMIT_S) -> None:
        self._loop, self._limit_s = loop, limit_s
        self._watched = threading.get_ident()
        self._statistics = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._computing = time.pthread_getcpuclockid(self._watched)
        self._ended, self._asking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)
        self._collecting_since, self._collected_s = 0.0, 0.0
        self._still_s, self._looked_at, self._worked_s = 0.0, time.monotonic(), time.process_time()
        self.blocks: list[str] = []

    def __enter__(self) -> Self:
        gc.callbacks.append(self._note_collection)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        gc.callbacks.remove(self._note_collection)

    def take_blocks(self) -> list[str]:
        """Give out what was noted up to now, once; call it while the loop stands still."""
        with self._asking:
            blocks, self.blocks = self.blocks, []
        return blocks

    def _watch(self) -> None:
        while not self._ended.wait(STEP_S):
            with self._asking:
                if self._loop.is_running():
                    self._ask()

    def _ask(self) -> None:
        answer, stack = threading.Event(), ""
        self._look()
        since, collected, still = self._looked_at, self._collected_s, self._still_s
        computed, unserved = time.clock_gettime(self._computing), self._unserved_s()
        worked = time.process_time()
        try:
            self._loop.call_soon_threadsafe(answer.set)
        except RuntimeError:  # closed between the look and the question
            return
        while not self._waited(answer):
            if self._ended.is_set() or not self._loop.is_running():
                return  # nobody was there to answer
            if not stack and self._looked_at - since > self._limit_s:
                stack = self._stack()
        waited = max(self._unserved_s() - unserved, self._still_s - still)
        collecting = self._collected_s - collected
        computing = max(0.0, time.clock_gettime(self._computing) - computed - collecting)
        asleep = max(0.0, self._looked_at - since - waited - collecting - computing)
        held_off = min(asleep, max(0.0, time.process_time() - worked - collecting - computing))
        asleep -= held_off
        blocked = (asleep if self._statistics.exists() else asleep / _crowd()) + (
            computing + held_off
        ) / _crowd()
        # Without a stack nothing of ours was running: the loop waited in its selector for a processor.
        if stack and blocked > self._limit_s:
            self.blocks.append(f"The event loop was blocked for {blocked:.3f} s, in:\n{stack}")

    def _waited(self, answer: threading.Event) -> bool:
        """Wait a step for the answer, and note by how much it was too long although nobody worked."""
        is_answered = answer.wait(STEP_S)
        still = self._look() - STEP_S
        self._still_s += max(0.0, still)
        return is_answered

    def _look(self) -> float:
        """Say for how long nothing of this process has computed since the last look, in seconds.

        A look begins where the one before ended, so that a machine may stand still anywhere in between.
        """
        looked_at, worked_s = self._looked_at, self._worked_s
        self._looked_at, self._worked_s = time.monotonic(), time.process_time()
        return (self._looked_at - looked_at) - (self._worked_s - worked_s)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._watched)
        # The loop's own wait only: a driver that waits in a selector inside a task does block.
        if frame and frame.f_back and frame.f_back.f_code.co_name == "_run_once":
            return ""
        return "".join(traceback.format_stack(frame)[-12:]) if frame else ""

    def _note_collection(self, phase: str, _: dict[str, int]) -> None:
        """Add up the time the garbage collection takes: a test process holds far more than a server does."""
        if phase == "start":
            self._collecting_since = time.monotonic()
        else:
            self._collected_s += time.monotonic() - self._collecting_since

    def _unserved_s(self) -> float:
        """Say how long the watched thread has waited for a processor; 0 where the system does not tell."""
        try:
            return int(self._statistics.read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0


def _crowd() -> float:
    """Say how many want each processor."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
