"""How often one asks again what nothing tells."""

import asyncio
from typing import Final

from application.stream import HEARTBEAT_S

SOON_S: Final = 0.005
LATER_S: Final = 0.25
_SLOWER: Final = 1.5


class Pace:
    """Rests between two questions: a moment at first, `LATER_S` seconds for whoever has asked for long."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pause_s = SOON_S
        self._beat = self._loop.time() + HEARTBEAT_S

    async def rest(self) -> bool:
        """Rest; returns whether it is time to show whoever waits for the answer that one is still there."""
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * _SLOWER, LATER_S)
        if self._loop.time() < self._beat:
            return False
        self._beat += HEARTBEAT_S
        return True
