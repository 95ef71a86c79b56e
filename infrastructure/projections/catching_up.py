"""Letting a read model get to the head of the log where no server may be running."""

import asyncio
import time
from typing import Final

from domain.errors import MinutebookError
from infrastructure.projections import checkpoints
from infrastructure.projections.connecting import connect
from infrastructure.projections.follow import Projector
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.reading import head_of
from infrastructure.vault import Vault

STILL_S: Final = 20.0
_PAUSE_S: Final = 0.02


class BehindError(MinutebookError):
    """The read model {name} stands still at {position} of {head}; `minutebook projections` says why."""

    code = "read_model_behind"


async def catch_up(url: str, model: ReadModel, vault: Vault, still_s: float = STILL_S) -> None:
    """Let a read model get to where the log is now; where another process runs it, wait for that one.

    Raises `BehindError` where it does not move for `still_s` seconds.
    """
    if await asyncio.to_thread(_missing, url, model.name) == 0:
        return
    projector = Projector(url, [model], vault=vault)
    await projector.start()
    try:
        await _wait(url, model.name, still_s)
    finally:
        await projector.stop()


async def _wait(url: str, name: str, still_s: float) -> None:
    head = await asyncio.to_thread(_head, url)
    before, moved_at = -1, time.monotonic()
    while (position := await asyncio.to_thread(_position, url, name)) < head:
        now = time.monotonic()
        if position != before:
            before, moved_at = position, now
        if now - moved_at > still_s:
            raise BehindError(name=name, position=position, head=head)
        await asyncio.sleep(_PAUSE_S)


def _missing(url: str, name: str) -> int:
    return _head(url) - _position(url, name)


def _head(url: str) -> int:
    with connect(url, "projections list") as connection:
        return head_of(connection)


def _position(url: str, name: str) -> int:
    with connect(url, "projections list") as connection:
        found = checkpoints.find(connection, name)
    return found.position if found else 0
