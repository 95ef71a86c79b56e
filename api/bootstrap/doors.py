"""The doors: what the HTTP handlers reach of the house."""

from typing import TYPE_CHECKING

from api.bootstrap.audit import audit_of
from api.bootstrap.erasing import purging
from api.bootstrap.health import exposition, readiness
from api.bootstrap.store import Store
from api.bootstrap.turns import Turns, forgetting
from api.settings import Settings
from application.reading import Patience, Reads
from application.turns import TurnService
from infrastructure.audit.proving import PostgresSeals
from infrastructure.audit.sealer import Sealer
from infrastructure.exports.operating import Exports
from infrastructure.metrics import PrometheusMetrics
from infrastructure.postgres.erasing import PostgresEraser
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.pool import Pool
from infrastructure.projections.agent_activity import PostgresAgentActivity
from infrastructure.projections.asking import PostgresCheckpoints
from infrastructure.projections.conversation_list import PostgresConversationList
from infrastructure.projections.pending_approvals import PostgresApprovals
from infrastructure.projections.transcript_queries import PostgresTranscripts
from infrastructure.projections.usage import PostgresUsage

if TYPE_CHECKING:
    from api.app import Doors


def doors_of(
    store: Store, settings: Settings, turns: Turns, sealer: Sealer, metrics: PrometheusMetrics
) -> "Doors":
    """Return what the handlers work with."""
    from api.app import Doors  # a third of the start, and of no use to a command that serves nothing

    kit, running = turns.kit, turns.running
    reads = reads_of(store.reading, settings.read_wait_s)
    keys = KeyStore(store.reading, store.vault)
    return Doors(
        live=turns.live,
        log=store.log,
        turns=TurnService(kit, store.log, running, turns.mirrors),
        metrics=metrics,
        limits=kit.limits,
        readiness=lambda: readiness(store.pool, running, sealer),
        exposition=lambda: exposition(metrics, reads.approvals),
        reads=reads,
        audit=audit_of(store.reading, store.mapper, keys, store.payloads),
        exports=Exports(store.reading, keys),
        seals=PostgresSeals(store.reading),
        roster=kit.roster,
        model_name=kit.model_name,
        eraser=PostgresEraser(store.pool, store.node, forgetting(store, turns), purging),
        identity_header=settings.identity_header,
        scopes_header=settings.scopes_header,
        allow_remote=settings.allow_remote,
        node=store.node.partition(":")[2],
    )


def reads_of(pool: Pool, wait_s: float) -> Reads:
    """Return all that can be read; a read waits `wait_s` seconds for a position at most."""
    return Reads(
        conversations=PostgresConversationList(pool),
        transcripts=PostgresTranscripts(pool),
        approvals=PostgresApprovals(pool),
        agents=PostgresAgentActivity(pool),
        usage=PostgresUsage(pool),
        patience=Patience(PostgresCheckpoints(pool), wait_s),
    )
