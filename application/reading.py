"""All that can be read, and the wait until a read model has got to what one has just written."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from application.errors import PositionNotReachedError
from application.queries import (
    AgentQueries,
    Answer,
    ApprovalQueries,
    ConversationQueries,
    TranscriptQueries,
    UsageQueries,
)

T = TypeVar("T")


class Checkpoints(Protocol):
    """How far each projection has got."""

    async def positions(self) -> Mapping[str, int]:
        """Return the position of each projection by its name."""


class Patience:
    """Waits until a projection has got somewhere; all who wait share one look at the checkpoints."""

    def __init__(self, checkpoints: Checkpoints, wait_s: float, pause_s: float = 0.02) -> None:
        self._checkpoints = checkpoints
        self._wait_s = wait_s
        self._pause_s = pause_s
        self._look: asyncio.Task[Mapping[str, int]] | None = None

    async def read(
        self, projection: str, min_position: int, ask: Callable[[], Awaitable[Answer[T]]]
    ) -> Answer[T]:
        """Ask, and where the answer is older than `min_position` wait and ask again.

        Raises `PositionNotReachedError` when it has not got there after the time for which the
        operator lets a read wait.
        """
        answer = await ask()
        if answer.position >= min_position:
            return answer
        await self._reached(projection, min_position)
        return await ask()

    async def _reached(self, projection: str, min_position: int) -> None:
        position = 0
        try:
            async with asyncio.timeout(self._wait_s):
                while position < min_position:
                    position = (await self._looked()).get(projection, 0)
        except TimeoutError:
            raise PositionNotReachedError(min_position=min_position, position=position) from None

    async def _looked(self) -> Mapping[str, int]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._positions(), name="look at the checkpoints")
        return await asyncio.shield(self._look)

    async def _positions(self) -> Mapping[str, int]:
        await asyncio.sleep(self._pause_s)
        return await self._checkpoints.positions()


@dataclass(frozen=True)
class Reads:
    """All that can be read, and the patience to wait for it."""

    conversations: ConversationQueries
    transcripts: TranscriptQueries
    approvals: ApprovalQueries
    agents: AgentQueries
    usage: UsageQueries
    patience: Patience
