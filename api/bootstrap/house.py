"""The house: a running service, opened part by part and closed in the opposite order."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.bootstrap.background import open_background
from api.bootstrap.doors import doors_of
from api.bootstrap.keys import open_vault
from api.bootstrap.models import roster_of, router_of
from api.bootstrap.store import Store, appending, open_pools
from api.bootstrap.turns import kit_of, open_turns
from api.settings import Settings
from application.ids import new_id
from application.language_model import LanguageModel
from application.live import LiveFeed
from application.running import Running
from infrastructure.metrics import PrometheusMetrics

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True)
class House:
    """A running service: its application, and what a shutdown has to end."""

    app: "FastAPI"
    running: Running
    live: LiveFeed
    node: str


@asynccontextmanager
async def open_house(
    settings: Settings, url: str, model: LanguageModel | None = None
) -> AsyncIterator[House]:
    """Open everything a server needs, for the length of the block. Raises `SettingsError`.

    `model` answers instead of all those that the settings and the agents name.
    """
    from api.app import create_app  # a third of the start, and of no use to any other command

    node = f"{socket.gethostname()}:{os.getpid()}:{new_id()[-12:]}"
    metrics = PrometheusMetrics()
    roster = roster_of(settings)
    router = await asyncio.to_thread(router_of, settings, roster)
    vault, salt = await asyncio.to_thread(open_vault, settings, url)
    async with (
        open_pools(url, settings.pool_size) as pools,
        aclosing(router),
        appending(url, metrics.batch_appended) as appender,
    ):
        store = Store(url, node, pools, appender, vault, salt)
        kit = kit_of(store, settings, roster, model or router, metrics)
        async with (
            open_turns(store, settings, kit) as turns,
            open_background(store, settings, turns, metrics) as sealer,
        ):
            app = await asyncio.to_thread(create_app, doors_of(store, settings, turns, sealer, metrics))
            turns.running.open_keeper()
            try:
                yield House(app, turns.running, turns.live, node)
            finally:
                await turns.running.close(0)
                turns.live.close()
