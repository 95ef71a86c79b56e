"""Imported conversations, stored through the same append as everything else."""

from typing import cast

from application.errors import ConflictError
from domain.agent import Agent
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation
from infrastructure.postgres.appender import Appender, Save
from infrastructure.postgres.batch import NewKey
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.sealing import sealed
from infrastructure.vault import Vault


class PostgresImportLog:
    """Stores whole conversations; those that are stored side by side share batches."""

    def __init__(self, appender: Appender, mapper: MinutesMapper, vault: Vault) -> None:
        self._appender = appender
        self._mapper = mapper
        self._vault = vault

    async def store(self, conversation: Conversation, agent: Agent) -> bool:
        """Store a new conversation whole; False where one with its id is there already."""
        started, *rest = conversation.pending_events
        recorded = cast("list[MinuteEvent]", [started, *agent.pending_events, *rest])
        conversation_id = conversation.id.partition("-")[2]
        key, wrapped = self._vault.new_key(conversation_id)
        events = [sealed(self._mapper.to_new_event(event), key) for event in recorded]
        save = Save(events, {conversation.id: 0, agent.id: 0}, key=NewKey(conversation_id, wrapped))
        try:
            await self._appender.append(save)
        except ConflictError:
            return False
        return True
