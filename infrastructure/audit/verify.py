"""The whole log, hashed anew in parallel and compared with everything that was sealed or exported of it."""

import multiprocessing
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import psycopg

from infrastructure.audit.merkle import TILE, TILE_LEVELS, Growth, Tile
from infrastructure.audit.notes import Checkpoint, NoteError, notes_in, parsed
from infrastructure.audit.signing import Since, flaw
from infrastructure.audit.verify_range import (
    RANGE,
    Finding,
    RangeCheck,
    RangeReport,
    Task,
    begin_worker,
    check_range,
    connect,
    folded,
    push,
)

_SHOWN: Final = 20  # findings that are told; the rest is counted
_ANY_SIZE: Final = 2**62
_BEGINNING: Final = """
    SELECT h.position, s.size, (SELECT count(*) FROM log WHERE position < 1), u.recorded_at,
           coalesce(extract(epoch FROM clock_timestamp() - u.recorded_at), 0)::float8
      FROM log_head h CROSS JOIN (SELECT coalesce(max(size), 0) AS size FROM seal_checkpoints) s
      LEFT JOIN log u ON u.position = s.size + 1"""
OnProgress = Callable[[int, int], None]  # the position reached, and the newest


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was kept elsewhere: what it says, and what is wrong with it itself."""

    name: str
    checkpoint: Checkpoint | None
    flaw: str | None


@dataclass(frozen=True, order=True)
class _Told:
    """A signed checkpoint that was compared."""

    size: int
    name: str
    is_exported: bool


@dataclass
class Verified:
    """What was checked, and what does not fit: by position, the first one first."""

    events: int = 0
    head: int = 0
    sealed: int = 0  # the size of the newest stored checkpoint
    unsealed_since: datetime | None = None  # when the oldest event was recorded that is not sealed
    unsealed_s: float = 0.0  # how old it was at the beginning, by the database's clock
    tiles: int = 0
    checkpoints: int = 0
    exported: int = 0
    findings: list[Finding] = field(default_factory=list)
    more: int = 0  # findings that are not in the list

    @property
    def is_good(self) -> bool:
        """Whether everything fits."""
        return not self.findings

    @property
    def is_compared(self) -> bool:
        """Whether there was a checkpoint to compare with."""
        return self.checkpoints + self.exported > 0


def exported_in(name: str, content: str, verifiers: Sequence[Since]) -> list[Exported]:
    """Read a file of exported checkpoints, one or many."""
    found = [_exported(f"{name}", note, verifiers) for note in notes_in(content)]
    return found or [Exported(name, None, "has no checkpoint in it")]


def _exported(name: str, text: str, verifiers: Sequence[Since]) -> Exported:
    try:
        note = parsed(text)
        return Exported(name, note.checkpoint(), flaw(note, verifiers))
    except NoteError as error:
        return Exported(name, None, f"is no checkpoint: {error.details['reason']}")


class Verification:
    """One verification of a whole log. It changes nothing, and holds up nobody."""

    def __init__(
        self,
        url: str,
        verifiers: Sequence[Since],
        exported: Sequence[Exported] = (),
        *,
        workers: int = 2,
        on_progress: OnProgress = lambda _position, _head: None,
    ) -> None:
        self._url = url
        self._verifiers = verifiers
        self._exported = exported
        self._workers = workers
        self._on_progress = on_progress
        self._found = Verified()
        self._findings: list[Finding] = []
        self._versions: dict[bytes, int] = {}  # the last one of each stream
        self._peaks: list[tuple[int, bytes]] = []
        self._above = Growth()  # the tiles two levels up and higher, over the roots of whole ranges
        self._number = 0  # of the last checkpoint seen
        self._good: list[_Told] = []  # the signed checkpoints that fit, and those that do not
        self._bad: list[_Told] = []

    def run(self) -> Verified:
        """Check everything. Raises `psycopg.Error` where the database does not answer."""
        with connect(self._url) as connection:
            task = self._task(connection)
            with self._checked(connection, task) as reports:
                for report in reports:
                    self._take(connection, report)
            self._check_ends(connection)
        self._judge()
        return self._found

    def _task(self, connection: psycopg.Connection) -> Task:
        found, row = self._found, connection.execute(_BEGINNING).fetchone()
        assert row is not None  # noqa: S101 (a view of one row)
        head, found.sealed, outside, found.unsealed_since, found.unsealed_s = row
        found.head = head
        if outside:
            self._find(0, f"{outside} rows stand before position 1")
        sizes = sorted({one.checkpoint.size for one in self._exported if one.checkpoint})
        return Task(self._url, self._verifiers, head, self._found.sealed, sizes)

    @contextmanager
    def _checked(self, connection: psycopg.Connection, task: Task) -> Iterator[Iterator[RangeReport]]:
        """Give the reports of all ranges, in their order."""
        starts = range(0, task.head, RANGE)
        if len(starts) < 2 or self._workers < 2:
            yield (RangeCheck(connection, task, start).run() for start in starts)
            return
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=begin_worker, initargs=(task,)
        )
        try:
            yield pool.map(check_range, starts)
        finally:
            pool.shutdown(cancel_futures=True)

    def _find(self, position: int, what: str) -> None:
        self._findings.append(Finding(position, what))

    # ------------------------------------------------------------ range after range
    def _take(self, connection: psycopg.Connection, report: RangeReport) -> None:
        found = self._found
        found.events += report.events
        found.tiles += report.tiles
        self._findings += [*report.findings, *report.flaws]
        self._join_versions(report)
        for number, size, root, is_signed in report.checkpoints:
            found.checkpoints += 1
            if number != self._number + 1:
                self._find(size, f"checkpoint {self._number + 1} is missing")
            self._number = number
            if is_signed:
                name = f"checkpoint {number} ({size} events)"
                self._compare(_Told(size, name, is_exported=False), root, report)
        for one in self._exported:
            if one.checkpoint and not one.flaw and one.checkpoint.size in report.parts:
                size, root = one.checkpoint.size, one.checkpoint.root
                name = f"the checkpoint in {one.name} ({size} events)"
                self._compare(_Told(size, name, is_exported=True), root, report)
        if report.root:
            push(self._peaks, report.root)
            for tile in self._above.add([report.root]):
                self._compare_tile(connection, tile)
        self._on_progress(min(report.start + RANGE, found.head), found.head)

    def _compare(self, told: "_Told", root: bytes, report: RangeReport) -> None:
        fits = folded(self._peaks, report.parts[told.size]) == root
        (self._good if fits else self._bad).append(told)

    def _join_versions(self, report: RangeReport) -> None:
        for stream, now in report.versions.items():
            last = self._versions.get(stream, 0)
            if now.first != last + 1 and stream.startswith((b"conversation-", b"agent-")):
                name = stream.decode(errors="replace")
                self._find(now.at, f"{name} has version {now.first} after {last}")
            self._versions[stream] = now.last

    def _compare_tile(self, connection: psycopg.Connection, above: Tile) -> None:
        level = above.level + 2
        row = connection.execute(
            "SELECT hashes, root FROM seal_tiles WHERE level = %s AND index = %s", [level, above.index]
        ).fetchone()
        if row != (above.hashes, above.root):
            first = (above.index << TILE_LEVELS * (level + 1)) + 1
            self._find(first, f"tile {above.index} of level {level} is missing or not what its events give")

    # ------------------------------------------------------------ what the ranges cannot see
    def _check_ends(self, connection: psycopg.Connection) -> None:
        head, sealed = self._found.head, self._found.sealed
        if sealed > head:
            beyond = connection.execute(
                "SELECT count(*), min(number) FROM seal_checkpoints WHERE size > %s", [head]
            ).fetchone()
            count, number = beyond or (0, 0)
            what = f"the log ends at position {head}, but {sealed} events are sealed"
            self._find(head + 1, f"{what} ({count} checkpoints, from {number} on)")
        for one in self._exported:
            self._check_exported(one, head)
        for level in range(8):
            self._count_tiles(connection, level, head if sealed > head else _ANY_SIZE)

    def _check_exported(self, one: Exported, head: int) -> None:
        if one.flaw:
            size = one.checkpoint.size if one.checkpoint else head
            self._find(size, f"the checkpoint in {one.name} {one.flaw}")
        else:
            self._found.exported += 1
        if one.checkpoint and one.checkpoint.size > head:
            what = f"the log ends at position {head}, but the checkpoint in {one.name} covers"
            self._find(head + 1, f"{what} {one.checkpoint.size} events")

    def _count_tiles(self, connection: psycopg.Connection, level: int, most: int) -> None:
        """Count the tiles over more than is sealed, which may be more by now than at the beginning."""
        row = connection.execute(
            "SELECT count(*), min(index) FROM seal_tiles WHERE level = %s AND index >="
            " least((SELECT coalesce(max(size), 0) FROM seal_checkpoints), %s::bigint) >> %s",
            [level, most, TILE_LEVELS * (level + 1)],
        ).fetchone()
        if row and row[0]:
            first = (row[1] << TILE_LEVELS * (level + 1)) + 1
            self._find(first, f"{row[0]} tiles of level {level} stand beyond what is sealed")

    # ------------------------------------------------------------ what it comes to
    def _judge(self) -> None:
        """Tell a changed event from a changed hash, name the checkpoints that do not fit, and sort."""
        vouched = max((one.size for one in self._good), default=0)
        ordered = sorted({_told_apart(one, vouched) for one in self._findings})
        if self._bad:
            insort(ordered, self._unfit(), key=lambda one: one.position)
        self._found.findings, self._found.more = ordered[:_SHOWN], len(ordered[_SHOWN:])

    def _unfit(self) -> Finding:
        """Say which checkpoint is the first that does not fit, and from where on the fault can be."""
        first = min(self._bad)
        proven = self._proven_before(first)
        at = [one.position for one in self._findings if proven < one.position <= first.size]
        others = f", and {len(self._bad) - 1} more do not" if len(self._bad) > 1 else ""
        where = f"what was signed is not what stands among positions {proven + 1} to {first.size}"
        return Finding(min(at, default=proven + 1), f"{first.name} does not fit the log: {where}{others}")

    def _proven_before(self, bad: _Told) -> int:
        """Return up to where the log is proven to be what this checkpoint was made of.

        Where a stored checkpoint of the same size or a larger one fits, two histories were signed; which
        of them the other stored ones belong to is anybody's guess.
        """
        forked = bad.is_exported and any(one.size >= bad.size for one in self._good if not one.is_exported)
        good = (one.size for one in self._good if one.size < bad.size and (one.is_exported or not forked))
        return max(good, default=0)


def _told_apart(finding: Finding, vouched: int) -> Finding:
    """Where a signed checkpoint vouches for the event, it is its stored hash that was changed."""
    if finding.hash_only and finding.position <= vouched:
        what = finding.what.replace("not what was sealed", "as signed, but its stored hash was changed")
        return Finding(finding.position, what, hash_only=True)
    return finding


def workers_here() -> int:
    """Return how many processes this machine can use."""
    return max(1, multiprocessing.cpu_count())


__all__ = ["RANGE", "TILE", "Exported", "Finding", "Verification", "Verified", "exported_in", "workers_here"]
