"""One unit of work on PostgreSQL: loaded in one round trip, committed in one, nothing held in between."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from application.ports import Closing, Committed
from domain.agent import Agent, agent_stream
from domain.aggregate import By, MinuteEvent, SignedAggregate
from domain.conversation import Conversation, conversation_stream
from domain.errors import ConversationErasedError, ConversationNotFoundError, MinutebookError
from infrastructure.postgres.appender import Appender, NewEvent, Save, Snapshot, Stored
from infrastructure.postgres.batch import NewKey
from infrastructure.postgres.key_store import KeyStore
from infrastructure.postgres.loading import Loader, RawRow
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool
from infrastructure.postgres.recent import RecentEvents
from infrastructure.postgres.rows import Row
from infrastructure.postgres.sealing import opened, opened_snapshot, sealed, sealed_snapshot
from infrastructure.vault import DataKey, ErasedKey, NoKey

EVENT_BYTES: Final = 1000  # what an event takes in memory beside its data, about

A = TypeVar("A", bound=SignedAggregate)


class UnitOfWorkOverError(MinutebookError):
    """The unit of work is not open: it has been committed or left, or was never entered."""

    code = "internal_error"


class Recorded(list[Any]):
    """The pending events of one aggregate, noted in the journal of both as they are recorded."""

    def __init__(self, journal: list[MinuteEvent], pending: Sequence[Any]) -> None:
        super().__init__(pending)
        self._journal = journal
        journal.extend(pending)

    def append(self, event: MinuteEvent) -> None:
        """Add an event to the aggregate's own list and to the journal."""
        super().append(event)
        self._journal.append(event)


class PostgresUnitOfWork:
    """Both aggregates of one conversation, loaded once and committed once.

    The log keeps the order in which events were recorded across the two aggregates: each
    aggregate's list of pending events (`Recorded`) notes them in one journal, and the journal is
    what is appended.
    """

    def __init__(
        self,
        conversation_id: str,
        turn_id: str,
        node: str,
        appender: Appender,
        pool: Pool,
        mapper: MinutesMapper,
        keys: KeyStore,
        snapshot_every: int = 40,
        view_page: int = 100,
        recent: RecentEvents | None = None,
        loader: Loader | None = None,
    ) -> None:
        self._conversation_id = conversation_id
        self._turn_id = turn_id
        self._node = node
        self._appender = appender
        self._pool = pool
        self._mapper = mapper
        self._keys = keys
        self._log = PostgresLog(pool, mapper.to_logged, keys)
        self._snapshot_every = snapshot_every
        self._view_page = view_page
        self._recent = RecentEvents() if recent is None else recent
        self._loader = loader or Loader(pool)
        self._streams = (conversation_stream(conversation_id), agent_stream(conversation_id))
        self._is_inside = False
        self._is_committed = False
        self._conversation: Conversation | None = None
        self._agent: Agent | None = None
        self._key: DataKey | ErasedKey | NoKey = NoKey(conversation_id)
        # The newest stored events of the conversation, oldest first; few turns look at all of them.
        self._page: list[RawRow] = []
        self._loaded: dict[str, int] = dict.fromkeys(self._streams, 0)  # the versions in the log
        self._journal: list[MinuteEvent] = []

    async def __aenter__(self) -> Self:
        """Load both aggregates and the newest events of the conversation in one round trip.

        Raises `StoreUnavailableError`, `ConversationErasedError`, and `StoredDataError` for rows that
        somebody has changed.
        """
        conversation, agent = await self._load()
        self._conversation = self._revived(Conversation, conversation)
        self._agent = self._revived(Agent, agent)
        self._page = [row for row in conversation if not _is_snapshot(row)]
        self._is_inside = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Forget what was recorded and not committed."""
        self._is_inside = False
        self._conversation = self._agent = None
        self._journal = []

    @property
    def is_new(self) -> bool:
        """Whether the conversation has yet to be started."""
        return self._conversation is None

    @property
    def conversation(self) -> Conversation:
        """The conversation; raises `ConversationNotFoundError` where there is none yet."""
        self._check_inside()
        if self._conversation is None:
            raise ConversationNotFoundError
        return self._conversation

    @property
    def agent(self) -> Agent:
        """Who is on; raises `ConversationNotFoundError` where there is no conversation yet."""
        self._check_inside()
        if self._agent is None:
            raise ConversationNotFoundError
        return self._agent

    def start(self, by: By, agent: str) -> None:
        """Start the conversation with this agent on. Raises `UnitOfWorkOverError`."""
        self._check_open()
        self._conversation = self._noted(Conversation.begin(self._conversation_id, by))
        self._agent = self._noted(Agent.assign(self._conversation_id, agent, by))

    async def newest_first(self) -> AsyncIterator[MinuteEvent]:
        """Walk back through the conversation's events, recorded and stored, newest first.

        Pages beyond the loaded one are read only when the walk gets there. Raises
        `StoreUnavailableError`, and `ConversationErasedError` where it was erased meanwhile.
        """
        for event in reversed(self._journal.copy()):
            if event.originator_id == self._streams[0]:
                yield event
        rows = {row[2]: Row(*row) for row in self._page}
        for version in range(self._loaded[self._streams[0]], 0, -1):
            if known := self._recent.get(self._streams[0], version):
                self._refuse_erased()
                yield known
                continue
            if version not in rows:
                rows = await self._page_up_to(version)
            yield self._remembered(rows[version])

    async def commit(self, closing: Closing) -> Committed:
        """Store what both aggregates recorded and close the turn, in one transaction.

        Whoever stops waiting does not stop it. Raises `ConflictError` when somebody else wrote
        first, `TurnLostError` when the lease went to another node, `StoreUnavailableError` when
        the database does not answer and `UnitOfWorkOverError` when it is called twice.
        """
        self._check_open()
        if closing.turn_id != self._turn_id:
            raise ValueError(f"this is the unit of work of the turn {self._turn_id}")
        self._is_committed = True
        events = [self._mapper.to_new_event(event) for event in self._journal]
        key, new = self._key_to_seal_with()
        save = Save(
            [sealed(event, key) for event in events],
            dict(self._loaded),
            closing,
            self._node,
            [sealed_snapshot(snapshot, key) for snapshot in self._snapshots()],
            new if events else None,
        )
        stored = await self._appender.append(save)
        if events:
            self._keys.vault.keep(self._conversation_id, key)
        return self._committed(events, stored, closing)

    # --- loading ---------------------------------------------------------------------------------

    async def _load(self) -> tuple[list[RawRow], list[RawRow]]:
        conversation, agent = self._streams
        page = 0 if self._recent.knows(conversation) else self._view_page
        rows = await self._loader.load(conversation, agent, page)
        for row in rows:
            if not row[1]:  # the key's row
                self._find_key(row[8])
        return [row for row in rows if row[1] == conversation], [row for row in rows if row[1] == agent]

    def _find_key(self, wrapped: bytes | None) -> None:
        vault, conversation = self._keys.vault, self._conversation_id
        known = vault.find(conversation) if wrapped is not None else None
        self._key = known or vault.unwrap(conversation, wrapped)
        if isinstance(self._key, ErasedKey):
            raise ConversationErasedError

    def _key_to_seal_with(self) -> tuple[DataKey, NewKey | None]:
        if isinstance(self._key, DataKey):
            return self._key, None
        key, wrapped = self._keys.vault.new_key(self._conversation_id)
        return key, NewKey(self._conversation_id, wrapped)

    def _revived(self, kind: type[A], rows: Sequence[RawRow]) -> A | None:
        """Rebuild an aggregate from its snapshot, where there is one, and what came after it."""
        aggregate: A | None = None
        known = 0
        for row in (Row(*raw) for raw in rows if _is_snapshot(raw)):
            state = self._mapper.transcoder.decode(opened_snapshot(row, self._key))
            aggregate = kind.from_kept_state(row.stream, row.version, state, row.recorded_at)
            known = row.version
        for raw in rows:
            if raw[2] > known:
                event = self._recent.get(raw[1], raw[2]) or self._remembered(Row(*raw))
                aggregate = event.mutate(aggregate)
        if aggregate is None:
            return None
        self._loaded[aggregate.id] = aggregate.version
        return self._noted(aggregate)

    def _noted(self, aggregate: A) -> A:
        """Let the aggregate note what it records in the journal."""
        vars(aggregate)["_pending_events"] = Recorded(self._journal, aggregate.pending_events)
        return aggregate

    async def _page_up_to(self, version: int) -> dict[int, Row]:
        page = await self._log.page_backwards(self._streams[0], version + 1, self._view_page)
        return {row.version: row for row in page}

    def _remembered(self, row: Row) -> MinuteEvent:
        self._refuse_erased()
        event = self._mapper.to_event(opened(row, self._key))
        self._recent.keep(row.stream, event, len(row.data) + EVENT_BYTES)
        return event

    def _refuse_erased(self) -> None:
        # A turn that has lost its lease may still hold a key that was destroyed since.
        if self._keys.vault.is_erased(self._conversation_id):
            raise ConversationErasedError

    # --- committing ------------------------------------------------------------------------------

    def _check_inside(self) -> None:
        if not self._is_inside:
            raise UnitOfWorkOverError

    def _check_open(self) -> None:
        self._check_inside()
        if self._is_committed:
            raise UnitOfWorkOverError

    def _snapshots(self) -> list[Snapshot]:
        aggregates = [one for one in (self._conversation, self._agent) if one is not None]
        return [self._snapshot(aggregate) for aggregate in aggregates if self._is_due(aggregate)]

    def _is_due(self, aggregate: SignedAggregate) -> bool:
        """Whether the aggregate has passed a multiple of `snapshot_every` since it was loaded."""
        return aggregate.version // self._snapshot_every > self._loaded[aggregate.id] // self._snapshot_every

    def _snapshot(self, aggregate: SignedAggregate) -> Snapshot:
        state = self._mapper.transcoder.encode(aggregate.kept_state())
        return Snapshot(aggregate.id, aggregate.version, aggregate.STATE_VERSION, state)

    def _committed(self, events: Sequence[NewEvent], stored: Stored, closing: Closing) -> Committed:
        if not events:
            return Committed(closing.first_position, closing.last_position, (), closing.outcome)
        first = stored.first_position or 0
        logged = [
            self._mapper.to_logged(_row(first + offset, event, stored.recorded_at))
            for offset, event in enumerate(events)
        ]
        return Committed(stored.first_position, stored.last_position, logged, closing.outcome)


def _is_snapshot(row: RawRow) -> bool:
    return row[0] is None


def _row(position: int, event: NewEvent, recorded_at: datetime) -> Row:
    """Return the row that the log holds of a new event."""
    return Row(
        position,
        event.stream,
        event.version,
        event.type,
        event.conversation,
        event.turn,
        event.actor,
        recorded_at,
        event.data,
    )
