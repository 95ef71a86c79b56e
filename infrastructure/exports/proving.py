"""An export against signed checkpoints: its events are hashed anew, and have to be those that were sealed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from application.exporting import Checked, UncheckableError
from infrastructure.audit.leaf import StoredRow, leaf_hash_of
from infrastructure.audit.merkle import Growth
from infrastructure.audit.notes import Checkpoint
from infrastructure.audit.signing import Since
from infrastructure.audit.verify import exported_in
from infrastructure.exports import manifests
from infrastructure.exports.restoring import values_of


@dataclass(frozen=True)
class _Named:
    name: str
    checkpoint: Checkpoint


def prove(path: Path, notes: Mapping[str, str], verifiers: Sequence[Since]) -> Checked:
    """Compare the events of a whole log in NDJSON with the checkpoints in these notes, by their roots.

    Without notes it is the checkpoint in the manifest. One of a longer log than was exported is left out;
    `checkpoints` says which were compared. Raises `UncheckableError` where this is no whole log in NDJSON.
    """
    manifest = manifests.read(path)
    if manifest.format != "ndjson" or manifest.first != 1 or manifest.conversation or manifest.types:
        raise UncheckableError(
            reason="only a whole log in NDJSON, from position 1 on, can be compared with checkpoints"
        )
    fine = Checked(str(path), manifest.count, 1, manifest.last, manifest.bytes)
    notes = notes or ({"the manifest": str(manifest.checkpoint)} if manifest.checkpoint else {})
    found = [(name, one) for name, content in notes.items() for one in exported_in(name, content, verifiers)]
    for name, one in found:
        if one.flaw or one.checkpoint is None:
            return replace(fine, reason=f"a checkpoint of {name} {one.flaw}")
    named = [_Named(name, one.checkpoint) for name, one in found if one.checkpoint]
    named = sorted(
        (one for one in named if one.checkpoint.size <= manifest.last), key=lambda one: one.checkpoint.size
    )
    return _compared(fine, path.with_name(manifest.file), named)


def _compared(fine: Checked, export: Path, named: Sequence[_Named]) -> Checked:
    tree, leaves, good = Growth(), _leaves(export), list[int]()
    for one in named:
        if not _is_grown(tree, leaves, one.checkpoint.size):
            at = tree.size + 1
            reason = f"line {at} is no event of an export with stored bytes, or is missing"
            return replace(fine, first=at, last=at, reason=reason, checkpoints=good)
        if tree.root() != one.checkpoint.root:
            first, last = (good[-1] if good else 0) + 1, one.checkpoint.size
            reason = (
                f"an event from position {first} to {last} is not what was sealed (checkpoint of {one.name})"
            )
            return replace(fine, first=first, last=last, reason=reason, checkpoints=good)
        good.append(one.checkpoint.size)
    return replace(fine, checkpoints=good)


def _is_grown(tree: Growth, leaves: Iterator[bytes], size: int) -> bool:
    """Add leaves up to this size; whether there were so many."""
    try:
        while tree.size < size:
            tree.add([next(leaves)])
    except (StopIteration, ValueError):
        return False
    return True


def _leaves(export: Path) -> Iterator[bytes]:
    """Yield the leaf hash of each line. Raises `ValueError` at one that is no event."""
    with export.open("rb") as file:
        for line in file:
            position, stream, version, kind, conversation, turn, actor, at, data = values_of(line)
            row = StoredRow(position, at, version, stream, kind, conversation, turn, actor, data)
            yield leaf_hash_of(row)
