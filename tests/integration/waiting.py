"""Waiting for what comes true by itself."""

import asyncio
from collections.abc import Callable
from typing import Any


async def eventually(true: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait until the awaitable that `true` makes is true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await true():
        assert asyncio.get_running_loop().time() < deadline, "it never came true"
        await asyncio.sleep(0.05)
