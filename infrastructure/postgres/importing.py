"""Imported conversations, stored through the same append as everything else."""

from typing import cast

from application.errors import ConflictError
from domain.agent import Agent
from domain.aggregate import MinuteEvent
from domain.conversation import Conversation
from infrastructure.postgres.appender import Appender, Save
from infrastructure.postgres.mapper import MinutesMapper


class PostgresImportLog:
    """Stores whole conversations; those that are stored side by side share batches."""

    def __init__(self, appender: Appender, mapper: MinutesMapper) -> None:
        self._appender = appender
        self._mapper = mapper

    async def store(self, conversation: Conversation, agent: Agent) -> bool:
        """Store a new conversation whole; False where one with its id is there already."""
        started, *rest = conversation.pending_events
        recorded = cast("list[MinuteEvent]", [started, *agent.pending_events, *rest])
        events = [self._mapper.to_new_event(event) for event in recorded]
        try:
            await self._appender.append(Save(events, {conversation.id: 0, agent.id: 0}))
        except ConflictError:
            return False
        return True
