"""Erasing the contents of a conversation: what is asked of the store, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure did: the receipt's position and time, and what there was (counts).

    Where nothing was stored of it the receipt is not in the log either, and the position 0.

    `scrubbed_at` is when the last traces left the files; None: they have yet to go.
    """

    conversation_id: str
    position: int
    erased_at: datetime
    actor: str
    reason: str | None
    erased: Mapping[str, int]
    scrubbed_at: datetime | None


class Eraser(Protocol):
    """Destroys the keys of conversations."""

    async def erase(
        self, conversation_id: str, subject: str | None, actor: str, reason: str | None
    ) -> Erasure:
        """Destroy the key and append the receipt, in one transaction; return the first receipt later on.

        Of a conversation of which nothing is stored the turns are forgotten that came to nothing.
        `subject` is whose it has to be, None for anybody's. Raises `ConversationNotFoundError`,
        `TurnInProgressError` while a turn runs in it, and `StoreUnavailableError`.
        """


def said(erasure: Erasure) -> Mapping[str, Any]:
    """Return an erasure as it is told."""
    return {
        "conversation_id": erasure.conversation_id,
        "erased_at": erasure.erased_at.isoformat(),
        "actor": erasure.actor,
        "reason": erasure.reason,
        "erased": erasure.erased,
        "scrubbed_at": erasure.scrubbed_at.isoformat() if erasure.scrubbed_at else None,
    }
