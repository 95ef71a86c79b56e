"""What an erasure did, as the server tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Erasure:
    """The receipt: its place in the log, who had the contents destroyed, when, why, and how much there was.

    `erased` counts what there was (`events`, `person_messages`, `agent_messages`, `calls`, `turns`).
    `scrubbed_at` is when the last traces left the database's files; None: they have yet to go.
    """

    conversation_id: str
    position: int
    erased_at: datetime
    actor: str
    reason: str | None
    erased: Mapping[str, int]
    scrubbed_at: datetime | None


def erasure_of(answer: Mapping[str, Any]) -> Erasure:
    """Return what the server has answered."""
    scrubbed_at = answer["scrubbed_at"]
    return Erasure(
        conversation_id=answer["conversation_id"],
        position=answer["position"],
        erased_at=datetime.fromisoformat(answer["erased_at"]),
        actor=answer["actor"],
        reason=answer["reason"],
        erased=answer["erased"],
        scrubbed_at=datetime.fromisoformat(scrubbed_at) if scrubbed_at else None,
    )
