"""Wires the house by hand: the one module that knows every adapter and reads the settings."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from api.settings import Settings, SettingsError, read_settings
from application.agents import AgentRoster
from application.auditing import Audit
from application.erasing import Erasure
from application.errors import StoreUnavailableError
from application.exporting import Manifest
from application.ids import new_id
from application.importing import ImportLog
from application.live import LiveFeed
from application.policy import Policy
from application.ports import LanguageModel, Limits, UnitOfWork
from application.queries import ApprovalQueries, Patience, Reads
from application.running import Running
from application.sharing import Mirrors, Sharer
from application.turn import Kit
from application.turns import TurnService
from domain.agent import agent_stream
from domain.conversation import conversation_stream
from infrastructure.agents_file import AgentsFileError, load_agents
from infrastructure.audit import seal_store
from infrastructure.audit.proving import PostgresSeals
from infrastructure.audit.rotation import Rotated, rotate
from infrastructure.audit.sealer import Sealer
from infrastructure.audit.signing import Signing, parsed_verifiers
from infrastructure.audit.verify import OnProgress, Verification, Verified, exported_in, workers_here
from infrastructure.exports import operating as exporting
from infrastructure.exports.operating import Exports, check_export, is_export, prove_export
from infrastructure.keys import KeyUnusableError, create_or_read_key, given_key
from infrastructure.metrics import PrometheusMetrics
from infrastructure.models import build_models
from infrastructure.models.demo import DemoModel
from infrastructure.models.router import ModelRouter, ModelSettingError
from infrastructure.postgres import schema
from infrastructure.postgres.appender import Appender
from infrastructure.postgres.audit import PostgresAudit
from infrastructure.postgres.audit_questions import PostgresQuestions
from infrastructure.postgres.chunks import PostgresChunks
from infrastructure.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from infrastructure.postgres.erasing import PostgresEraser
from infrastructure.postgres.importing import PostgresImportLog
from infrastructure.postgres.key_store import KeyStore, MasterKeyError, settle_master
from infrastructure.postgres.loading import Loader
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.operator import operator_turns
from infrastructure.postgres.pool import Pool, open_pool, store_errors
from infrastructure.postgres.recent import RecentEvents
from infrastructure.postgres.tailer import Tailer
from infrastructure.postgres.turns import PostgresTurns
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from infrastructure.projections import operating
from infrastructure.projections.agent_activity import PostgresAgentActivity
from infrastructure.projections.asking import PostgresCheckpoints
from infrastructure.projections.catching_up import catch_up
from infrastructure.projections.conversation_list import PostgresConversationList
from infrastructure.projections.follow import Projector
from infrastructure.projections.operating import (
    Difference,
    Progress,
    list_projections,
    make_tables,
    projection_names,
    troubles,
)
from infrastructure.projections.past import PostgresPast
from infrastructure.projections.pending_approvals import PostgresApprovals
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.requests import Requests
from infrastructure.projections.transcript import PostgresTranscripts
from infrastructure.projections.usage import PostgresUsage
from infrastructure.scrubbing import Scrubbed, Scrubber, scrub
from infrastructure.shared_metrics import SHARED_METRICS, forget_worker, new_metrics_folder, shared_metrics
from infrastructure.vault import DataKey, Vault

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = [
    "SHARED_METRICS",
    "Difference",
    "House",
    "Progress",
    "Settings",
    "SettingsError",
    "Verified",
    "check_export",
    "check_settings",
    "checkpoint_notes",
    "database",
    "erase_conversation",
    "forget_worker",
    "is_export",
    "list_projections",
    "list_turns",
    "new_metrics_folder",
    "open_audit",
    "open_house",
    "open_import_log",
    "projection_names",
    "prove_export",
    "public_keys",
    "read_settings",
    "rebuild_projection",
    "restore_export",
    "rotate_signing_key",
    "scrub_erased",
    "shared_metrics",
    "verify_log",
    "verify_projection",
    "write_export",
]

READY_S = 2.0  # how long the database may take to answer before it counts as gone


@dataclass(frozen=True)
class House:
    """A running service: its application, and what a shutdown has to end."""

    app: "FastAPI"
    running: Running
    live: LiveFeed
    node: str


def limits_of(settings: Settings) -> Limits:
    """Return the bounds a turn keeps, as the operator set them."""
    return Limits(
        switches=settings.max_switches,
        universal_switches=settings.max_universal_switches,
        model_calls=settings.max_model_calls,
        message_bytes=settings.max_message_bytes,
        answer_bytes=settings.max_answer_bytes,
        turn_s=settings.max_turn_s,
        busy_wait_s=settings.busy_wait_s,
        view_tokens=settings.view_tokens,
    )


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """Give the database's address, starting the embedded one where none is set.

    Raises `SettingsError` where it cannot be reached, is too old, or its schema does not fit.
    """
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        _migrate(url)
        yield url
        return
    try:
        with EmbeddedPostgres(settings.data) as embedded:
            url = embedded.start()
            _migrate(url)
            yield url
    except EmbeddedPostgresError as error:
        raise SettingsError(str(error)) from None


def _migrate(url: str) -> None:
    try:
        schema.migrate(url)
        make_tables(url, READ_MODELS)
    except schema.SchemaError as error:
        raise SettingsError(str(error)) from None
    except psycopg.Error as error:
        why = _trouble(error)
        raise SettingsError(f"The database of MINUTEBOOK_DATABASE_URL cannot be used: {why}.") from None


def _trouble(error: psycopg.Error) -> str:
    """Say the kind of trouble; the driver's own text names hosts and users, and quotes addresses."""
    if error.sqlstate or "FATAL" in str(error):
        return "it answers but refuses us (is there such a database, user and password?)"
    if isinstance(error, psycopg.ProgrammingError):
        return "this is no address of a PostgreSQL, as postgresql://user:password@host:5432/database"
    return "nobody answers there"


def check_settings(settings: Settings) -> None:
    """Find what is wrong with the agents and the models before anything starts. Raises `SettingsError`."""
    _model(settings, _roster(settings))


@asynccontextmanager
async def open_house(  # noqa: PLR0915 (it opens everything, one after the other)
    settings: Settings, url: str, model: LanguageModel | None = None
) -> AsyncIterator[House]:
    """Open everything a server needs, for the length of the block. Raises `SettingsError`.

    `model` answers instead of all those that the settings and the agents name.
    """
    from api.app import Doors, warmed_up  # a third of the start, and of no use to any other command

    node = f"{socket.gethostname()}:{os.getpid()}:{new_id()[-12:]}"
    metrics = PrometheusMetrics()
    roster = _roster(settings)
    router = await asyncio.to_thread(_model, settings, roster)  # reads certificates, imports libraries
    vault, salt = await asyncio.to_thread(_vault, settings, url)
    payloads = vault.purpose("turns", salt)
    mapper = MinutesMapper()
    appender = Appender(url, on_batch=metrics.batch_appended)
    # Reads have a pool of their own: however slow they are, turns are accepted and leases renewed.
    async with (
        open_pool(url, max_size=settings.pool_size) as pool,
        open_pool(url, min_size=0, max_size=settings.pool_size, name="minutebook reads") as reading,
    ):
        await appender.start()
        keys = KeyStore(pool, vault)
        log = PostgresLog(pool, mapper.to_logged, keys)
        recent = RecentEvents()

        loader = Loader(pool)
        forget = _forgetting(vault, recent)

        def unit_of_work(conversation_id: str, turn_id: str) -> UnitOfWork:
            return PostgresUnitOfWork(
                conversation_id, turn_id, node, appender, pool, mapper, keys, recent=recent, loader=loader
            )

        sealer = Sealer(url, _signing(settings), metrics, settings.seal_s)
        kit = Kit(
            unit_of_work=unit_of_work,
            turns=PostgresTurns(pool, node, settings.lease_s, payloads),
            model=model or router,
            model_name=settings.model,
            roster=roster,
            policy=Policy(roster.rules),
            limits=limits_of(settings),
            metrics=metrics,
            node=node,
        )
        live = LiveFeed(log)
        running = Running(kit, log, settings.lease_s, live.relay)
        chunks = PostgresChunks(url, pool, node, vault.purpose("chunks", salt))
        mirrors = Mirrors(chunks, kit.turns, log, live, kit.limits)
        reads = _reads(reading, settings.read_wait_s)
        doors = Doors(
            live=live,
            log=log,
            turns=TurnService(kit, log, running, mirrors),
            metrics=metrics,
            limits=kit.limits,
            readiness=lambda: _readiness(pool, running, sealer),
            exposition=lambda: _exposition(metrics, reads.approvals),
            reads=reads,
            audit=_audit(reading, mapper, KeyStore(reading, vault), payloads),
            exports=Exports(reading, KeyStore(reading, vault)),
            seals=PostgresSeals(reading),
            roster=roster,
            model_name=settings.model,
            eraser=PostgresEraser(pool, node, forget),
            identity_header=settings.identity_header,
            scopes_header=settings.scopes_header,
            allow_remote=settings.allow_remote,
            node=node.partition(":")[2],
        )

        tailer = Tailer(url, mapper.to_logged, live, mirrors.wake, keys=keys, on_erased=forget)
        followed = READ_MODELS if settings.projections else ()
        projector = Projector(url, followed, metrics, vault=vault)
        await projector.start()
        if settings.seal:
            sealer.start()
        live.position = await log.head()
        tailer.start(live.position)
        app = await asyncio.to_thread(warmed_up, doors)
        running.open_keeper()
        sharing = [
            asyncio.create_task(Sharer(chunks, running.streams).run(), name="sharer"),
            asyncio.create_task(mirrors.run(), name="mirrors"),
            asyncio.create_task(live.beat(), name="heartbeats"),
        ]
        scrubber = Scrubber(
            url, reading, vault, followed, settings.scrub_delay_s, is_our_server=settings.database_url is None
        )
        scrubber.start()
        try:
            yield House(app, running, live, node)
        finally:
            await running.close(0)
            live.close()
            await scrubber.stop()
            await tailer.stop()
            await projector.stop()
            await sealer.stop()
            for task in sharing:
                task.cancel()
            await asyncio.gather(*sharing, return_exceptions=True)
            await chunks.close()
            await appender.stop()
            await router.aclose()


def _signing(settings: Settings) -> Signing:
    given = settings.signing_key.get_secret_value() if settings.signing_key else None
    return Signing(settings.seal_origin, settings.key_folder, given)


def master_key(settings: Settings) -> bytes:
    """Return the master key: the one that is set, else that of the key folder. Raises `SettingsError`."""
    try:
        if settings.master_key:
            return given_key(settings.master_key.get_secret_value(), "MINUTEBOOK_MASTER_KEY")
        return create_or_read_key(settings.key_folder / "master.key")
    except KeyUnusableError as error:
        raise SettingsError(str(error)) from None


def _vault(settings: Settings, url: str) -> tuple[Vault, bytes]:
    """Return the vault, and the salt of the keys derived from its master key. Raises `SettingsError`."""
    vault = Vault(master_key(settings))
    try:
        return vault, settle_master(url, vault)
    except MasterKeyError as error:
        raise SettingsError(str(error)) from None


def rebuild_projection(settings: Settings, url: str, *how: Any) -> int:
    """Build a read model anew (`infrastructure.projections.operating`)."""
    return operating.rebuild_projection(url, _vault(settings, url)[0], *how)


def verify_projection(settings: Settings, url: str, *how: Any) -> operating.Verified | None:
    """Compare a read model with the log (`infrastructure.projections.operating`)."""
    return operating.verify_projection(url, _vault(settings, url)[0], *how)


def write_export(settings: Settings, url: str, *how: Any, with_keys: bool) -> Manifest | None:
    """Write the log as a file (`infrastructure.exports.operating`)."""
    return exporting.write_export(url, _vault(settings, url)[0], *how, with_keys=with_keys)


def restore_export(settings: Settings, url: str, *how: Any) -> int:
    """Take an export into an empty store (`infrastructure.exports.operating`)."""
    return exporting.restore_export(url, _vault(settings, url)[0], *how)


def _forgetting(vault: Vault, recent: RecentEvents) -> Callable[[str], None]:
    """Return what lets this process forget a conversation that was erased."""

    def forget(conversation_id: str) -> None:
        vault.forget(conversation_id)
        for stream in (conversation_stream(conversation_id), agent_stream(conversation_id)):
            recent.forget(stream)

    return forget


def _roster(settings: Settings) -> AgentRoster:
    try:
        return load_agents(settings.agents)
    except AgentsFileError as error:
        raise SettingsError(str(error)) from None


def _model(settings: Settings, roster: AgentRoster) -> ModelRouter:
    key = settings.model_api_key.get_secret_value() if settings.model_api_key else None
    try:
        return build_models(
            settings.model,
            [profile.model for profile in roster.profiles],
            base_url=settings.model_base_url,
            api_key=key,
            timeout_s=settings.model_timeout_s,
            answer_bytes=settings.max_answer_bytes,
            demo=DemoModel(settings.demo_delay_s),
        )
    except ModelSettingError as error:
        raise SettingsError(str(error)) from None


async def _exposition(metrics: PrometheusMetrics, approvals: ApprovalQueries) -> tuple[bytes, str]:
    """Count what waits, where the database says it in time, and return all that is counted."""
    with suppress(StoreUnavailableError, TimeoutError):
        async with asyncio.timeout(1):
            waiting = (await approvals.waiting()).value
            metrics.approvals_waiting(waiting.count, waiting.oldest)
    return metrics.exposition()


def _reads(pool: Pool, wait_s: float) -> Reads:
    return Reads(
        conversations=PostgresConversationList(pool),
        transcripts=PostgresTranscripts(pool),
        approvals=PostgresApprovals(pool),
        agents=PostgresAgentActivity(pool),
        usage=PostgresUsage(pool),
        patience=Patience(PostgresCheckpoints(pool), wait_s),
    )


async def _readiness(pool: Pool, running: Running, sealer: Sealer) -> dict[str, Any]:
    """Ask the database, for `READY_S` seconds at most.

    A driver that talks to a frozen server takes long to give up; it is left to that, not waited for.
    """
    asking = asyncio.create_task(_answers(pool))
    done, _ = await asyncio.wait({asking}, timeout=READY_S)
    asking.cancel()
    server = "shutting_down" if running.is_closing else "ok"
    projections = asking.result() if done else None
    if projections is None:
        return {"server": server, "database": "unavailable"}
    sealing = sealer.trouble or "ok"
    return {"server": server, "database": "ok", "projections": projections, "sealing": sealing}


async def _answers(pool: Pool) -> dict[str, str] | str | None:
    """Return what has stopped among the read models; None where the database does not answer."""
    try:
        async with store_errors(), pool.connection(timeout=READY_S) as connection:
            return await troubles(connection)
    except StoreUnavailableError:
        return None


def list_turns(url: str, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the newest turns for an operator, without what was said in them."""
    return operator_turns(url, state, limit)


async def erase_conversation(
    settings: Settings, url: str, conversation_id: str, reason: str | None
) -> Erasure:
    """Erase a conversation, whosever it is, for an operator. Raises what the endpoint says."""
    await asyncio.to_thread(_vault, settings, url)
    async with open_pool(url, min_size=1, max_size=1) as pool:
        eraser = PostgresEraser(pool, f"erase:{os.getpid()}", lambda _: None)
        return await eraser.erase(conversation_id, None, "operator", reason)


def scrub_erased(settings: Settings, url: str, on_progress: Callable[[Progress], None]) -> Scrubbed:
    """Write anew the files that held what was erased (`infrastructure.scrubbing`)."""
    vault, _ = _vault(settings, url)
    ours = settings.database_url is None
    return scrub(url, vault, READ_MODELS, is_our_server=ours, on_progress=on_progress)


@asynccontextmanager
async def open_import_log(settings: Settings, url: str) -> AsyncIterator[ImportLog]:
    """Open what an import writes to, for the length of the block."""
    vault, _ = await asyncio.to_thread(_vault, settings, url)
    appender = Appender(url)
    await appender.start()
    try:
        yield PostgresImportLog(appender, MinutesMapper(), vault)
    finally:
        await appender.stop()


@asynccontextmanager
async def open_audit(settings: Settings, url: str, *, is_caught_up: bool = False) -> AsyncIterator[Audit]:
    """Open the log for an auditor, for the length of the block; no server needs to run.

    `is_caught_up` first lets the read model of calls and plans get to the head of the log.
    """
    vault, salt = await asyncio.to_thread(_vault, settings, url)
    if is_caught_up:
        await catch_up(url, Requests(), vault)
    async with open_pool(url, min_size=0, max_size=2) as pool:
        keys, payloads = KeyStore(pool, vault), vault.purpose("turns", salt)
        yield _audit(pool, MinutesMapper(), keys, payloads)


def _audit(pool: Pool, mapper: MinutesMapper, keys: KeyStore, payloads: DataKey) -> Audit:
    log = PostgresAudit(pool, mapper.to_logged, keys, payloads)
    return Audit(log, PostgresPast(pool, mapper, keys), PostgresQuestions(pool, log))


# ---------------------------------------------------------------- audit: what was sealed
def checkpoint_notes(url: str, *, everything: bool = False) -> list[str]:
    """Return the newest signed checkpoint, or all of them, the oldest first; none where nothing is sealed."""
    with psycopg.connect(url) as connection:
        return seal_store.notes(connection, everything=everything)


def verify_log(
    url: str, settings: Settings, exported: Mapping[str, str], verifiers: str | None, on_progress: OnProgress
) -> Verified:
    """Compare the log with what was sealed of it, and with the checkpoints in `exported`: name to content.

    `verifiers` are the public keys, those beside the signing key where None is given. Raises
    `MinutebookError` where a key cannot be read, and `psycopg.Error`.
    """
    keys = parsed_verifiers(verifiers) if verifiers is not None else _signing(settings).verifiers_or_none()
    kept = [one for name, content in exported.items() for one in exported_in(name, content, keys)]
    return Verification(url, keys, kept, workers=workers_here(), on_progress=on_progress).run()


def public_keys(settings: Settings) -> list[str]:
    """Return the public keys of checkpoints, a line each: from which size on, and the key."""
    return [f"{one.size} {one.verifier.vkey}" for one in _signing(settings).verifiers()]


def rotate_signing_key(url: str, settings: Settings) -> Rotated:
    """Sign with a new key from now on."""
    return rotate(url, _signing(settings))
