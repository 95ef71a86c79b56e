"""A turn whose end could not be stored runs nowhere: who watches it waits until its lease is over."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from application.ports import Accepted, TurnRow, Turns
from application.protocol import payload_hash
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.integration.streams import status_of
from tests.integration.turn_helpers import asked
from tests.reading import reader
from tests.serving import Serving, serving

HELLO = {"type": "user_message", "content": "hello"}
RENAME = {"type": "amend", "title": "Ours"}


class Counting:
    """The turns, and how often one of them was looked for."""

    def __init__(self, turns: Any) -> None:
        self.finds = 0
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._turns, name)

    async def find(self, turn_id: str, subject: str) -> TurnRow | None:
        self.finds += 1
        found: TurnRow | None = await self._turns.find(turn_id, subject)
        return found


async def orphan(turns: Turns, payload: dict[str, Any]) -> None:
    """Let a turn run that nobody runs."""
    request = asked(turn_id="t-1", subject="local", kind=payload["type"], payload=payload)
    assert isinstance(await turns.accept(replace(request, payload_hash=payload_hash(payload))), Accepted)


def counted(server: Serving) -> Counting:
    service = server.house.app.state.turns
    counting = Counting(service._kit.turns)
    service._kit = replace(service._kit, turns=counting)
    return counting


async def test_who_watches_or_repeats_an_orphaned_turn_asks_seldom_and_hears_its_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("application.pace.HEARTBEAT_S", 0.3)
    async with serving(database_url, lease_s=2) as server:
        await orphan(server.house.running._kit.turns, HELLO)
        turns = counted(server)
        began = time.monotonic()
        watching = server.client.http.get("/v1/turns/t-1/stream")
        repeating = server.client.send(HELLO, turn_id="t-1")
        watched, repeated = await asyncio.gather(watching, repeating)
        assert 1.5 < time.monotonic() - began < 15
        assert turns.finds < 2 * 10 + 2 * 4 * (time.monotonic() - began)
        assert (await status_of(server, "t-1"))["state"] == "abandoned"
    assert watched.text.count(": still here\n\n") >= 3
    assert watched.text.count("event: turn.failed") == 1
    assert repeated[-1].data["code"] == "turn_abandoned"


async def test_a_change_asked_for_again_while_another_process_is_silent_takes_no_heartbeat_for_its_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("application.stream.HEARTBEAT_S", 0.05)
    async with serving(database_url) as server, open_pool(database_url, max_size=1) as pool:
        await orphan(PostgresTurns(pool, "another-server", 2), RENAME)
        refusal = await reader(server).patch("c1", {"title": "Ours"}, status=503, key="t-1")
    assert refusal["code"] == "turn_abandoned"
