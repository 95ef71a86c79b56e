"""Imported conversations, stored through the same append as everything else."""

from collections.abc import Sequence
from typing import Any, Final, cast

from application.errors import ConflictError
from application.importing import NotImportableError
from domain.agent import Agent
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation
from infrastructure.postgres.appender import Appender, Save
from infrastructure.postgres.batch import NewEvent, NewKey
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.rows import Row
from infrastructure.postgres.sealing import sealed
from infrastructure.vault import ERASED_DATA, Vault

_MADE_ANEW: Final = ("message_id", "call_id")  # by each import


class PostgresImportLog:
    """Stores whole conversations; those that are stored side by side share batches."""

    def __init__(self, appender: Appender, log: PostgresLog, mapper: MinutesMapper, vault: Vault) -> None:
        self._appender = appender
        self._log = log
        self._mapper = mapper
        self._vault = vault

    async def store(self, conversation: Conversation, agent: Agent) -> bool:
        """Store a new conversation whole; False where it is there already, or was erased.

        Raises `NotImportableError` where another conversation has its id.
        """
        started, *rest = conversation.pending_events
        recorded = cast("list[MinuteEvent]", [started, *agent.pending_events, *rest])
        conversation_id = conversation.id.partition("-")[2]
        key, wrapped = self._vault.new_key(conversation_id)
        events = [self._mapper.to_new_event(event) for event in recorded]
        streams = {conversation.id: 0, agent.id: 0}
        save = Save([sealed(event, key) for event in events], streams, key=NewKey(conversation_id, wrapped))
        try:
            await self._appender.append(save)
        except ConflictError:
            await self._refuse_another([event for event in events if event.stream == conversation.id])
            return False
        return True

    async def _refuse_another(self, events: Sequence[NewEvent]) -> None:
        """Raise `NotImportableError` unless the stored conversation begins with these events."""
        stored = await self._log.page_backwards(events[0].stream, len(events) + 1, len(events))
        is_erased = any(row.data == ERASED_DATA for row in stored)
        if not is_erased and self._said(events) != self._said(stored[::-1]):
            raise NotImportableError(reason="another conversation has its id")

    def _said(self, events: Sequence[NewEvent] | Sequence[Row]) -> list[tuple[str, str, Any]]:
        """Return who said what; ids that are made anew are numbered as they come."""
        numbers: dict[str, int] = {}
        said = []
        for event in events:
            data = self._mapper.transcoder.decode(event.data)
            for name in [one for one in _MADE_ANEW if one in data]:
                data[name] = numbers.setdefault(data[name], len(numbers))
            said.append((event.type, event.actor, data))
        return said
