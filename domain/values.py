"""The values both aggregates speak in: names, open and settled calls, fingerprints."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, TypeVar

from domain.errors import (
    CallAlreadyAnsweredError,
    CallAlreadyDecidedError,
    CallClosedError,
    CallNeedsNoDecisionError,
)

State = Literal[
    "idle", "awaiting_tool_results", "awaiting_decision", "plan_in_review", "plan_in_execution", "archived"
]
CallDecision = Literal["approve", "edit", "reject"]
PlanDecision = Literal["approve", "modify", "reject"]
CloseReason = Literal["superseded", "forbidden", "cancelled", "expired"]

T = TypeVar("T")

# How many settled calls and plan decisions an aggregate remembers, to recognize their repetition: no fewer
# calls than one answer may make (`MOST_CALLS` in application/listening.py).
REMEMBERED: Final = 256


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

    def repeated_decision(self, call_id: str, taken: str) -> str:
        """Return the turn that took this decision; raises for another one, or where none is needed."""
        return _repeated_decision(self, call_id, taken)


@dataclass(frozen=True)
class SettledCall:
    """What is kept of a call that has its one result: enough to recognize a repetition."""

    outcome: str
    settled_in: str
    decision: str | None = None
    decided_in: str | None = None

    def repeated_result(self, call_id: str, outcome: str) -> str:
        """Return the turn that recorded this result.

        Raises `CallAlreadyAnsweredError` for another one, `CallClosedError` where there was none.
        """
        if self.outcome == outcome:
            return self.settled_in
        self._refuse_closed(call_id)
        raise CallAlreadyAnsweredError(call_id=call_id)

    def repeated_decision(self, call_id: str, taken: str) -> str:
        """Return the turn that took this decision; raises for another one, or where none was needed."""
        if not self.decision:
            self._refuse_closed(call_id)
        return _repeated_decision(self, call_id, taken)

    def _refuse_closed(self, call_id: str) -> None:
        if self.outcome.startswith("closed:"):
            raise CallClosedError(call_id=call_id, reason=self.outcome.removeprefix("closed:"))


def _repeated_decision(call: OpenCall | SettledCall, call_id: str, taken: str) -> str:
    if not call.decision or not call.decided_in:
        raise CallNeedsNoDecisionError(call_id=call_id)
    if call.decision != taken:
        raise CallAlreadyDecidedError(call_id=call_id)
    return call.decided_in


@dataclass(frozen=True)
class Settlement:
    """A decision once taken, by its fingerprint, and the turn that took it."""

    fingerprint: str
    turn_id: str


def fingerprint(*parts: Any) -> str:
    """Return a short digest that is equal for equal JSON values and differs for `1`, `1.0` and `true`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(text.encode()).hexdigest()[:32]


def decision_fingerprint(decision: str, arguments: Any, feedback: str | None) -> str:
    """The same decision is the same word, and the same arguments (edit) or feedback (reject)."""
    return fingerprint(
        decision, arguments if decision == "edit" else None, feedback if decision == "reject" else None
    )


def plan_fingerprint(decision: str, feedback: str | None) -> str:
    """The same decision is the same word, and the same feedback where it says what should change."""
    return fingerprint(decision, feedback if decision != "approve" else None)


def revived(kind: type[T], kept: Mapping[str, Mapping[str, Any]]) -> dict[str, T]:
    """Turn a mapping of kept JSON objects back into a mapping of `kind`."""
    return {key: kind(**value) for key, value in kept.items()}


def forget_oldest(remembered: dict[str, Any], most: int = REMEMBERED) -> None:
    """Drop the oldest entries until at most `most` are left (dicts keep insertion order)."""
    surplus: Iterable[str] = list(remembered)[: max(0, len(remembered) - most)]
    for key in surplus:
        del remembered[key]
