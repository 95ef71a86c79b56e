"""The values both aggregates speak in: names, open and settled calls, fingerprints."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, TypeVar

State = Literal[
    "idle", "awaiting_tool_results", "awaiting_decision", "plan_in_review", "plan_in_execution", "archived"
]
CallDecision = Literal["approve", "edit", "reject"]
PlanDecision = Literal["approve", "modify", "reject"]
CloseReason = Literal["superseded", "forbidden", "cancelled", "expired"]

T = TypeVar("T")

# How many settled calls and plan decisions an aggregate remembers, to recognize their repetition.
REMEMBERED: Final = 128


@dataclass(frozen=True)
class OpenCall:
    """A tool call without its result; `decision` is None until a person has decided."""

    tool: str
    arguments: Any
    requires_decision: bool
    decision: str | None = None
    decided_in: str | None = None

    @property
    def undecided(self) -> bool:
        """Whether a person still has to decide before it may run."""
        return self.requires_decision and self.decision is None


@dataclass(frozen=True)
class SettledCall:
    """What is kept of a call that has its one result: enough to recognize a repetition."""

    outcome: str
    settled_in: str
    decision: str | None = None
    decided_in: str | None = None


@dataclass(frozen=True)
class Settlement:
    """A decision once taken, by its fingerprint, and the turn that took it."""

    fingerprint: str
    turn_id: str


def fingerprint(*parts: Any) -> str:
    """Return a short digest that is equal for equal JSON values and differs for `1`, `1.0` and `true`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(text.encode()).hexdigest()[:32]


def revived(kind: type[T], kept: Mapping[str, Mapping[str, Any]]) -> dict[str, T]:
    """Turn a mapping of kept JSON objects back into a mapping of `kind`."""
    return {key: kind(**value) for key, value in kept.items()}


def forget_oldest(remembered: dict[str, Any], most: int = REMEMBERED) -> None:
    """Drop the oldest entries until at most `most` are left (dicts keep insertion order)."""
    surplus: Iterable[str] = list(remembered)[: max(0, len(remembered) - most)]
    for key in surplus:
        del remembered[key]
