"""What the tests of the clients share: streams read to their end, and a model that is cut off."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from minutebook_client import Frame
from tests.cutting import CuttingProxy
from tests.integration.streams import until
from tests.openai_pieces import Piece, Text
from tests.replaying import read_log


async def whole(frames: AsyncIterator[Frame]) -> list[Frame]:
    return [frame async for frame in frames]


async def take_until(frames: AsyncIterator[Frame], position: int) -> list[int]:
    """Read a feed up to this position; returns the positions that came."""
    seen: list[int] = []
    async with asyncio.timeout(30):
        async for frame in frames:
            seen += [frame.position] if frame.position else []
            if seen and seen[-1] >= position:
                return seen
    raise AssertionError("the feed ended")


async def stored(database_url: str) -> list[int]:
    return [row.position for row in await asyncio.to_thread(read_log, database_url)]


def last_position(frames: Sequence[Frame]) -> int:
    return int(frames[-1].data["last_position"])


class CutModel:
    """A model that goes on speaking once its reader was cut again: what is said behind a commit vanishes."""

    def __init__(self) -> None:
        self.proxy: CuttingProxy | None = None

    async def pieces(self) -> AsyncIterator[Piece]:
        for number in range(30):
            yield Text(f"word{number + 1} ")
            await until(partial(self._was_cut, number), 60)

    def _was_cut(self, words: int) -> bool:
        return self.proxy is not None and self.proxy.cuts >= words // self.proxy.frames


def check_ids(ids: Sequence[str]) -> None:
    """Hold the ids of a turn to their order; what was not stored may be missing, nothing comes twice."""
    numbers = [int(one.removeprefix("1.")) for one in ids]
    assert numbers == sorted(set(numbers))
