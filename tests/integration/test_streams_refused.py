"""Who watches a turn that is then refused is told so, and the conversation's other watchers hear nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from application.use_cases import USE_CASES
from tests.integration.streams import (
    calls_of,
    check_frames,
    end_of,
    in_turn,
    reading,
    result,
    steered,
    turns_of,
    types,
    until,
)
from tests.integration.test_feeds import feed
from tests.integration.test_streams_failures import retry
from tests.openai_pieces import Status
from tests.serving import Refused, Serving, SseFrame, serving

ADA = {"conversation_id": "ada"}


class Hesitating:
    """Use cases that wait before they decide, so that somebody can attach before they refuse."""

    def __init__(self, kind: str) -> None:
        self.may_decide = asyncio.Event()
        self.use_cases = {**USE_CASES, kind: self._decide}
        self._decides = USE_CASES[kind]

    async def _decide(self, message: Any, turn: Any, kit: Any) -> Any:
        await self.may_decide.wait()
        return await self._decides(message, turn, kit)


@asynccontextmanager
async def attached(server: Serving, turn_id: str) -> AsyncIterator[asyncio.Task[list[SseFrame]]]:
    """Attach to a turn that runs, and let the block decide when it goes on."""
    await until(lambda: server.house.running.get(turn_id))
    attaching = asyncio.create_task(server.client.read_turn(turn_id))
    turn = server.house.running.get(turn_id)
    assert turn
    await until(lambda: turn.stream._waiting)
    async with asyncio.timeout(10):
        yield attaching


async def test_who_attached_to_a_message_that_is_then_refused_gets_the_refusal_as_its_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hesitating = Hesitating("switch_agent")
    monkeypatch.setattr("application.running.USE_CASES", hesitating.use_cases)
    message = {"type": "switch_agent", "agent": "ask"}
    async with serving(database_url) as server:
        asking = asyncio.create_task(server.client.send(message, **ADA, turn_id="t-1"))
        async with attached(server, "t-1") as attaching:
            hesitating.may_decide.set()
            frames = await attaching
        with pytest.raises(Refused, match="conversation_not_found"):
            await asking
        assert await turns_of(database_url) == []
    check_frames(frames)
    assert [frame.type for frame in frames] == ["turn.failed"]
    assert (end_of(frames)["code"], end_of(frames)["retryable"]) == ("conversation_not_found", False)


async def test_who_watches_a_retry_that_is_then_refused_gets_the_refusal_and_a_feed_hears_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hesitating = Hesitating("tool_result")
    async with steered(database_url, in_turn(reading(1), [Status(500)])) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        await result(server.client, "ada", call_id, turn_id="t-2")
        await server.client.say("never mind", **ADA)
        monkeypatch.setattr("application.running.USE_CASES", hesitating.use_cases)
        async with feed(server, "/v1/conversations/ada/feed") as items:
            retrying = asyncio.create_task(retry(server, "t-2"))
            async with attached(server, "t-2") as attaching:
                hesitating.may_decide.set()
                frames = await attaching
            with pytest.raises(Refused, match="call_closed"):
                await retrying
            assert types(await server.client.say("go on", **ADA))[0] == "user_message_received"
            heard = await anext(items)
        again = await server.client.read_turn("t-2")
    check_frames(frames, attempt=2)
    assert [frame.type for frame in frames] == ["turn.failed"]
    assert end_of(frames)["code"] == "call_closed"
    assert again == frames
    assert (heard.type, heard.data["kind"]) == ("turn.started", "user_message")
