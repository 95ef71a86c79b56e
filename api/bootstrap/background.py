"""What goes on beside the turns: read models follow the log, it is sealed, told and scrubbed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.bootstrap.keys import signing_of
from api.bootstrap.store import Store
from api.bootstrap.turns import Turns, forgetting
from api.settings import Settings
from infrastructure.audit.sealer import Sealer
from infrastructure.metrics import PrometheusMetrics
from infrastructure.postgres.tailer import Tailer
from infrastructure.projections.follow import Projector
from infrastructure.projections.registry import READ_MODELS
from infrastructure.scrubbing import Scrubber


@asynccontextmanager
async def open_background(
    store: Store, settings: Settings, turns: Turns, metrics: PrometheusMetrics
) -> AsyncIterator[Sealer]:
    """Run what follows the log, for the length of the block; gives the sealer, which knows its trouble."""
    followed = READ_MODELS if settings.projections else ()
    projector = Projector(store.url, followed, metrics, vault=store.vault)
    sealer = Sealer(store.url, signing_of(settings), metrics, settings.seal_s)
    tailer = _tailer(store, turns)
    scrubber = Scrubber(
        *(store.url, store.reading, store.vault, followed, settings.scrub_delay_s),
        is_our_server=settings.database_url is None,
    )
    await projector.start()
    try:
        if settings.seal:
            sealer.start()
        turns.live.position = await store.log.head()
        tailer.start(turns.live.position)
        scrubber.start()
        yield sealer
    finally:
        for part in (scrubber, tailer, projector, sealer):
            await part.stop()


def _tailer(store: Store, turns: Turns) -> Tailer:
    return Tailer(
        *(store.url, store.mapper.to_logged, turns.live, turns.mirrors.wake),
        keys=store.keys,
        on_erased=forgetting(store, turns),
    )
