"""The frames of one running turn, kept in memory for whoever watches: bounded, never blocking the turn."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from application.frames import Frame, frame
from application.ports import Limits, TurnRow

HEARTBEAT_S = 15.0


class TurnStream:
    """What a turn has said so far. Watchers read at their own pace; the oldest provisional frames go first.

    A watcher holds a number, not a queue: one that stops reading costs nothing.
    """

    def __init__(self, row: TurnRow, limits: Limits, on_frame: Callable[[Frame], None] | None = None) -> None:
        self.row = row
        self.is_over = False
        self._frames: list[Frame] = []
        self._limits = limits
        self._on_frame = on_frame
        self._bytes = 0
        self._last_seq = 0
        self._waiting: set[asyncio.Event] = set()

    @property
    def last_seq(self) -> int:
        """The number of the newest frame, 0 before the first."""
        return self._last_seq

    def say(self, type_: str, **fields: Any) -> None:
        """Add one provisional frame."""
        if not self.is_over:
            self._add([frame(self.row, self._last_seq + 1, type_, fields)])

    def end(self, frames: Iterable[Frame]) -> None:
        """Add the frames of the end; the last one is terminal, and nothing comes after it."""
        if not self.is_over:
            self.is_over = True
            self._add(frames)

    def refuse(self, end: Frame) -> None:
        """End it for those who have attached already. Nobody else is told of a message that was not taken."""
        self._on_frame = None
        self.end([end])

    def relay(self, frames: Iterable[Frame]) -> None:
        """Add provisional frames made elsewhere; what was added before is passed over."""
        if not self.is_over:
            self._add([one for one in frames if one.seq > self._last_seq])

    def provisional_after(self, seq: int) -> Sequence[Frame]:
        """Return the provisional frames after `seq` while the turn runs."""
        return () if self.is_over else self._after(seq)

    async def watch(self, after: int = 0) -> AsyncIterator[list[Frame]]:
        """Yield the frames after `after` in batches as they come, up to and with the terminal one.

        A batch is empty where nothing was said for `HEARTBEAT_S` seconds.
        """
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            while True:
                changed.clear()
                if batch := self._after(after):
                    yield batch
                    after = batch[-1].seq
                    if batch[-1].is_final:
                        return
                else:
                    try:
                        async with asyncio.timeout(HEARTBEAT_S):
                            await changed.wait()
                    except TimeoutError:
                        yield []  # nothing new; whoever sends this on can show that it is still there
        finally:
            self._waiting.discard(changed)

    def _after(self, seq: int) -> list[Frame]:
        if self.is_over and self._frames[-1].seq <= seq:
            return [self._frames[-1]]  # a cursor from beyond the end still learns how it ended
        return self._frames[bisect_right(self._frames, seq, key=attrgetter("seq")) :]

    def _add(self, frames: Iterable[Frame]) -> None:
        for one in frames:
            self._frames.append(one)
            self._last_seq = one.seq
            self._bytes += _size(one.body)
            if self._on_frame:
                self._on_frame(one)
        self._forget_oldest()
        for changed in self._waiting:
            changed.set()

    def _forget_oldest(self) -> None:
        limits = self._limits
        while not self.is_over and (
            len(self._frames) > limits.chunk_log_frames or self._bytes > limits.chunk_log_bytes
        ):
            # Several at once: taking from the front of a list moves the rest.
            oldest = len(self._frames) // 8 + 1
            self._bytes -= sum(_size(one.body) for one in self._frames[:oldest])
            del self._frames[:oldest]


def _size(body: Mapping[str, Any]) -> int:
    return 200 + len(body.get("text", ""))
