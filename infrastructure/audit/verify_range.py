"""One range of the log, hashed anew and compared with what was sealed of it: the work of one process."""

import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Final

import psycopg
from psycopg.rows import class_row

from infrastructure.audit.leaf import HEAD, STREAM_AT, read_leaves
from infrastructure.audit.merkle import HASH_BYTES, TILE, Tile, node_hash, root_of, split
from infrastructure.audit.notes import NoteError, parsed
from infrastructure.audit.seal_store import Sealed
from infrastructure.audit.signing import Since, flaw
from infrastructure.postgres.connections import arguments

RANGE: Final = TILE * TILE  # events; a tile of the next level is one range
_NOTHING: Final = bytes(HASH_BYTES)  # in the place of an event that is missing
_MOST_FINDINGS: Final = 100  # of one range
# Versions of others who keep their streams in the same log may begin and go on as they like.
_OURS: Final = (b"conversation-", b"agent-")


@dataclass(frozen=True, order=True)
class Finding:
    """Something that does not fit, at or from a position on."""

    position: int
    what: str
    hash_only: bool = False  # the event and its stored hash differ: it may be the hash that was changed


@dataclass(frozen=True)
class Versions:
    """The versions of a stream in one range: the first, where it stands, and the last."""

    first: int
    at: int
    last: int


@dataclass
class RangeReport:
    """What one range was found to be."""

    start: int
    events: int = 0
    tiles: int = 0
    root: bytes | None = None  # of the whole range; None where it is not full
    parts: dict[int, bytes] = field(default_factory=dict)  # size: the root over the range up to there
    checkpoints: list[tuple[int, int, bytes, bool]] = field(
        default_factory=list
    )  # number, size, root, signed
    findings: list[Finding] = field(default_factory=list)
    flaws: list[Finding] = field(default_factory=list)  # of the checkpoints themselves
    versions: dict[bytes, Versions] = field(default_factory=dict)

    def find(self, position: int, what: str, *, hash_only: bool = False) -> None:
        """Note what does not fit."""
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(Finding(position, what, hash_only))


@dataclass(frozen=True)
class Task:
    """What a process is told: the database, the keys, how far is sealed, and sizes others ask about."""

    url: str
    verifiers: Sequence[Since]
    head: int
    sealed: int
    sizes: Sequence[int]


class RangeCheck:
    """Hashes the events from `start` on (exclusive), at most `RANGE` of them."""

    def __init__(self, connection: psycopg.Connection, task: Task, start: int) -> None:
        self._connection = connection
        self._task = task
        self._start = start
        self._end = min(start + RANGE, task.head)
        self._report = RangeReport(start)
        self._peaks: list[tuple[int, bytes]] = []  # (tiles, root) of whole subtrees so far
        self._roots: list[bytes] = []  # of the tiles so far

    def run(self) -> RangeReport:
        """Read, hash and compare. Raises `psycopg.Error`."""
        stored, checkpoints = self._stored_tiles(), self._checkpoints()
        hashes, begin = self._hashes(), self._start
        while tile := list(islice(hashes, TILE)):
            self._compare_checkpoints(checkpoints[begin // TILE], begin, tile)
            root = root_of(tile)
            if len(tile) == TILE:
                self._compare_tile(stored.get(begin // TILE), begin, tile, root)
                self._push(root)
            begin += len(tile)
        self._compare_level_above()
        return self._report

    # ------------------------------------------------------------ the events
    def _hashes(self) -> Iterator[bytes]:
        """Yield the hash of each event in its place, and note what is missing or out of order."""
        report, expected = self._report, self._start
        firsts: dict[bytes, tuple[int, int]] = {}
        lasts: dict[bytes, int] = {}
        unpack, stream_end = HEAD.unpack_from, STREAM_AT + 1
        for row in read_leaves(self._connection, self._start, self._end):
            leaf = b"\0" + row
            position, version, length = unpack(leaf, 1)
            expected += 1
            if position != expected:
                if position < expected:
                    expected -= 1
                    report.find(position, f"position {position} is there twice")
                    continue
                report.find(expected, _missing(expected, position - 1))
                yield from [_NOTHING] * (position - expected)
                expected = position
            stream = leaf[stream_end : stream_end + length]
            before = lasts.get(stream)
            if before is None:
                firsts[stream] = version, position
            elif version != before + 1 and stream.startswith(_OURS):
                report.find(position, _wrong_version(stream, version, before))
            lasts[stream] = version
            report.events += 1
            yield sha256(leaf).digest()
        if expected < self._end:
            report.find(expected + 1, _missing(expected + 1, self._end))
            yield from [_NOTHING] * (self._end - expected)
        report.versions = {stream: Versions(*first, lasts[stream]) for stream, first in firsts.items()}

    # ------------------------------------------------------------ what was sealed of them
    def _stored_tiles(self) -> Mapping[int, Tile]:
        cursor = self._connection.cursor(row_factory=class_row(Tile), binary=True)
        cursor.execute(
            "SELECT level, index, root, hashes FROM seal_tiles"
            " WHERE level = 0 AND index >= %s AND index < %s",
            [self._start // TILE, -(-self._end // TILE)],
        )
        return {tile.index: tile for tile in cursor}

    def _checkpoints(self) -> Mapping[int, list[Sealed]]:
        """Return the signed checkpoints in this range by the tile in which they end.

        None that was written since the beginning: of those, one range would see some and another one others.
        """
        cursor = self._connection.cursor(row_factory=class_row(Sealed))
        cursor.execute(
            "SELECT number, size, recorded_at, root, hashes, note FROM seal_checkpoints"
            " WHERE size > %s AND size <= %s ORDER BY number",
            [self._start, min(self._end, self._task.sealed)],
        )
        found = defaultdict[int, list[Sealed]](list)
        for one in cursor:
            wrong = _flaw(one, self._task.verifiers)
            if wrong and len(self._report.flaws) < _MOST_FINDINGS:
                what = f"checkpoint {one.number} ({one.size} events) {wrong}"
                self._report.flaws.append(Finding(one.size, what))
            self._report.checkpoints.append((one.number, one.size, one.root, not wrong))
            if not wrong:
                found[(one.size - 1) // TILE].append(one)
        return found

    def _compare_checkpoints(self, checkpoints: Sequence[Sealed], begin: int, tile: list[bytes]) -> None:
        """Compare the hashes that stand with checkpoints, and work out the roots at sizes in this tile."""
        end = begin + len(tile)
        for one in checkpoints:
            if one.hashes and one.size <= end:
                first = one.size - len(one.hashes) // HASH_BYTES
                self._compare(first, tile[max(first - begin, 0) : one.size - begin], one.hashes)
        sizes = {one.size for one in checkpoints} | set(self._task.sizes)
        for size in sizes:
            if begin < size <= end:
                self._report.parts[size] = self._folded(root_of(tile[: size - begin]))

    def _compare_tile(self, stored: Tile | None, begin: int, tile: list[bytes], root: bytes) -> None:
        if stored is None:
            if begin + TILE <= self._task.sealed:
                self._report.find(
                    begin + 1, f"the tile of positions {begin + 1} to {begin + TILE} is missing"
                )
            return
        self._report.tiles += 1
        self._compare(begin, tile, stored.hashes)
        if stored.root != root and stored.hashes == b"".join(tile):
            self._report.find(
                begin + 1, f"the tile of positions {begin + 1} to {begin + TILE} has another root"
            )

    def _compare(self, begin: int, ours: Sequence[bytes], stored: bytes) -> None:
        if stored == b"".join(ours):
            return
        theirs = split(stored)
        for number, hashed in enumerate(ours):
            if number >= len(theirs) or hashed != theirs[number]:
                position = begin + number + 1
                self._report.find(position, f"position {position} is not what was sealed", hash_only=True)

    def _compare_level_above(self) -> None:
        if len(self._roots) < TILE:
            return
        self._report.root = self._folded(None)
        row = self._connection.execute(
            "SELECT hashes, root FROM seal_tiles WHERE level = 1 AND index = %s", [self._start // RANGE]
        ).fetchone()
        where = f"the tile over positions {self._start + 1} to {self._end}"
        if row is None and self._end <= self._task.sealed:
            self._report.find(self._start + 1, f"{where} is missing")
        elif row is not None and row != (b"".join(self._roots), self._report.root):
            self._report.find(self._start + 1, f"{where} is not what its events give", hash_only=True)

    # ------------------------------------------------------------ roots
    def _push(self, root: bytes) -> None:
        self._roots.append(root)
        push(self._peaks, root)

    def _folded(self, right: bytes | None) -> bytes:
        return folded(self._peaks, right)


def push(peaks: list[tuple[int, bytes]], root: bytes) -> None:
    """Add a subtree to those of a growing tree; equal ones are joined."""
    width = 1
    while peaks and peaks[-1][0] == width:
        root = node_hash(peaks.pop()[1], root)
        width *= 2
    peaks.append((width, root))


def folded(peaks: Sequence[tuple[int, bytes]], right: bytes | None) -> bytes:
    """Return the root over subtrees and what stands to their right."""
    for _, peak in reversed(peaks):
        right = peak if right is None else node_hash(peak, right)
    assert right is not None  # noqa: S101 (there is something to be hashed)
    return right


def _missing(first: int, last: int) -> str:
    return f"position {first} is missing" if first == last else f"positions {first} to {last} are missing"


def _wrong_version(stream: bytes, version: int, before: int) -> str:
    return f"{stream.decode(errors='replace')} has version {version} after {before}"


def _flaw(one: Sealed, verifiers: Sequence[Since]) -> str | None:
    try:
        note = parsed(one.note)
        said = note.checkpoint()
        if (said.size, said.root) != (one.size, one.root):
            return "says another size or root than its note"
        return flaw(note, verifiers)
    except NoteError as error:
        return f"has no valid note: {error.details['reason']}"


# ---------------------------------------------------------------- in a process of its own
_own: dict[str, psycopg.Connection | Task] = {}


def begin_worker(task: Task) -> None:
    """Open this process's connection; Ctrl-C is its parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _own.update(task=task, connection=connect(task.url))


def check_range(start: int) -> RangeReport:
    """Check one range in a worker process."""
    connection, task = _own["connection"], _own["task"]
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 (begin_worker has put them there)
    assert isinstance(task, Task)  # noqa: S101
    return RangeCheck(connection, task, start).run()


def connect(url: str) -> psycopg.Connection:
    """Open a connection that may take as long as it likes."""
    return psycopg.Connection.connect(url, **arguments("minutebook verify", 0))
