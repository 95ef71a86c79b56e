"""What a process is told late of one attempt of a turn does nothing to the next."""

import asyncio
from dataclasses import replace
from typing import Any

from application.ports import Attempt, Renewal, Turns
from application.running import Running
from tests.integration.streams import Gate, check_frames, end_of, in_turn, said_by, steered, turns_of
from tests.integration.test_streams_failures import retry

ADA = {"conversation_id": "ada"}


class LateToTell:
    """The turns, which say only when they are let go on that one of them is lost."""

    def __init__(self, turns: Turns) -> None:
        self.knows, self.may_tell = asyncio.Event(), asyncio.Event()
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._turns, name)

    async def renew(self, attempts: list[Attempt]) -> Renewal:
        renewal = await self._turns.renew(attempts)
        if renewal.lost:
            self.knows.set()
            await self.may_tell.wait()
        return renewal


def told_late(running: Running) -> LateToTell:
    late: Any = LateToTell(running._kit.turns)
    running._kit = replace(running._kit, turns=late)
    return late  # type: ignore[no-any-return]


async def test_a_loss_that_is_told_late_ends_the_attempt_that_was_lost_and_not_the_next_one(
    database_url: str,
) -> None:
    lost, next_one = Gate(), Gate()
    async with steered(database_url, in_turn(lost.pieces(), next_one.pieces())) as (server, _):
        late = told_late(server.house.running)
        first = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await lost.reached.wait()
        await late.abandon([("t-1", 1)])
        await late.knows.wait()
        second = asyncio.create_task(retry(server, "t-1"))
        await next_one.reached.wait()
        late.may_tell.set()
        assert end_of(await asyncio.wait_for(first, 10))["code"] == "turn_lost"
        next_one.opened.set()
        frames = await asyncio.wait_for(second, 10)
        assert await turns_of(database_url) == [("t-1", "committed")]
    check_frames(frames, attempt=2)
    assert said_by(frames) == ["before after"]
