"""The turns: those that run in this process, and the streams of those that run in others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.bootstrap.models import limits_of
from api.bootstrap.store import Store
from api.settings import Settings
from application.agents import AgentRoster
from application.language_model import LanguageModel
from application.live import LiveFeed
from application.policy import Policy
from application.running import Running
from application.sharing import Mirrors, Sharer
from application.turn import Kit
from infrastructure.metrics import PrometheusMetrics
from infrastructure.postgres.turns import PostgresTurns


@dataclass(frozen=True)
class Turns:
    """What turns work with, those that run, and how others watch them."""

    kit: Kit
    live: LiveFeed
    running: Running
    mirrors: Mirrors


@asynccontextmanager
async def open_turns(store: Store, settings: Settings, kit: Kit) -> AsyncIterator[Turns]:
    """Let streams be shared between processes, for the length of the block."""
    live = LiveFeed(store.log)
    running = Running(kit, store.log, settings.lease_s, live.relay)
    mirrors = Mirrors(store.chunks, kit.turns, store.log, live, kit.limits)
    sharing = [
        asyncio.create_task(Sharer(store.chunks, running.streams).run(), name="sharer"),
        asyncio.create_task(mirrors.run(), name="mirrors"),
        asyncio.create_task(live.beat(), name="heartbeats"),
    ]
    try:
        yield Turns(kit, live, running, mirrors)
    finally:
        for task in sharing:
            task.cancel()
        await asyncio.gather(*sharing, return_exceptions=True)
        await store.chunks.close()


def forgetting(store: Store, turns: Turns) -> Callable[[str], None]:
    """Return what lets this process forget a conversation that was erased."""

    def forget(conversation_id: str) -> None:
        store.forget(conversation_id)
        turns.live.forget(conversation_id)

    return forget


def kit_of(
    store: Store, settings: Settings, roster: AgentRoster, model: LanguageModel, metrics: PrometheusMetrics
) -> Kit:
    """Return what every turn works with."""
    return Kit(
        unit_of_work=store.unit_of_work,
        turns=PostgresTurns(store.pool, store.node, settings.lease_s, store.payloads),
        model=model,
        model_name=settings.model,
        roster=roster,
        policy=Policy(roster.rules),
        limits=limits_of(settings),
        metrics=metrics,
        node=store.node,
    )
