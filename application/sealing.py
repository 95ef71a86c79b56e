"""What can be asked of the sealed log: its signed checkpoints and proofs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from application.queries import Page


@dataclass(frozen=True, slots=True)
class SealedCheckpoint:
    """A signed checkpoint as it is stored: over how many events, and its note."""

    number: int
    size: int
    recorded_at: datetime
    note: str


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Shows that the leaf of an event is in the log of `size` events. `leaf_index` counts from 0."""

    position: int
    leaf_index: int
    size: int
    leaf_hash: bytes
    root: bytes
    audit_path: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Shows that the log of `old` events is the beginning of that of `new`."""

    old: int
    new: int
    old_root: bytes
    new_root: bytes
    path: Sequence[bytes]


class Seals(Protocol):
    """The sealed log. Every method raises `StoreUnavailableError` where the database does not answer."""

    async def newest(self) -> SealedCheckpoint:
        """Return the newest checkpoint. Raises `NotSealedError` where there is none."""
        ...

    async def page(self, after: int, limit: int) -> Page[SealedCheckpoint]:
        """Return the checkpoints with a number above `after`, oldest first."""
        ...

    async def inclusion(self, position: int, size: int | None) -> InclusionProof:
        """Prove that an event is in the log of `size` events, the newest checkpoint's where None is given.

        Raises `NotSealedError` where the position or the size is not sealed, and `InvalidFilterError`
        where the position is beyond the size.
        """
        ...

    async def consistency(self, old: int, new: int | None) -> ConsistencyProof:
        """Prove that a size of the log is the beginning of another; None is the newest checkpoint's.

        Raises `NotSealedError` where a size is not sealed, and `InvalidFilterError` where `old` is larger.
        """
        ...
