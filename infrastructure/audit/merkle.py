"""The Merkle tree of RFC 6962: how it grows, its tiles, and its proofs. Knows hashes and nothing else.

Nodes have a level (0: leaves) and an index: node (l, i) covers the leaves from i * 2**l on, 2**l of them.
Of a full tree 256 neighbouring nodes of every eighth level are kept together, as a tile: tile (t, i) has the
nodes (8 t, 256 i) to (8 t, 256 i + 255).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
TILE: Final = 256  # hashes in a tile
TILE_LEVELS: Final = 8  # levels of the tree that a tile spans
EMPTY_ROOT: Final = sha256().digest()

Node = Callable[[int, int], bytes]  # the hash of the node at (level, index), which must be whole


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root over these hashes: of leaves, or of subtrees all as large as the first but the last."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        level = paired(level)
    return level[0]


def paired(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the next level; an odd one at the end moves up as it is."""
    made = [
        sha256(b"\1" + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=False)
    ]
    if len(hashes) % 2:
        made.append(hashes[-1])
    return made


def split(joined: bytes) -> list[bytes]:
    """Return the hashes that stand in a row."""
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


@dataclass(frozen=True)
class Tile:
    """256 neighbouring hashes, and the root over them."""

    level: int
    index: int
    root: bytes
    hashes: bytes


class Growth:
    """The right edge of a growing tree: all it takes to go on and to know the root."""

    def __init__(self, size: int = 0, edges: Iterable[Sequence[bytes]] = ()) -> None:
        """Begin with `size` leaves and, from the leaves up, the hashes of each level's unfinished tile."""
        self.size = size
        self._edges = [list(edge) for edge in edges]

    def add(self, leaves: Iterable[bytes]) -> list[Tile]:
        """Append the hashes of leaves; returns the tiles they have finished."""
        finished: list[Tile] = []
        for hashed in leaves:
            self.size += 1
            self._put(0, hashed, finished)
        return finished

    def root(self) -> bytes:
        """Return the root over all leaves so far."""
        right: list[bytes] = []
        for edge in self._edges:
            if hashes := [*edge, *right]:
                right = [root_of(hashes)]
        return right[0] if right else EMPTY_ROOT

    def _put(self, level: int, hashed: bytes, finished: list[Tile]) -> None:
        if level == len(self._edges):
            self._edges.append([])
        edge = self._edges[level]
        edge.append(hashed)
        if len(edge) == TILE:
            root = root_of(edge)
            index = (self.size >> TILE_LEVELS * (level + 1)) - 1
            finished.append(Tile(level, index, root, b"".join(edge)))
            edge.clear()
            self._put(level + 1, root, finished)


# ---------------------------------------------------------------- proofs, as in RFC 6962, 2.1
def subroot(node: Node, start: int, end: int) -> bytes:
    """Return the root over the leaves from `start` up to `end` of a tree, `start` being aligned."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, start >> level)
    middle = start + _left(size)
    return node_hash(subroot(node, start, middle), subroot(node, middle, end))


def inclusion_path(node: Node, index: int, size: int) -> list[bytes]:
    """Return the proof that the leaf at `index` (from 0) is in the tree of `size` leaves."""
    start, end, path = 0, size, list[bytes]()
    while end - start > 1:
        middle = start + _left(end - start)
        if index < middle:
            path.append(subroot(node, middle, end))
            end = middle
        else:
            path.append(subroot(node, start, middle))
            start = middle
    return path[::-1]


def consistency_path(node: Node, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is the beginning of that of `new` (0 < old <= new)."""
    start, end, path, is_whole = 0, new, list[bytes](), True
    while end != old:
        middle = start + _left(end - start)
        if old <= middle:
            path.append(subroot(node, middle, end))
            end = middle
        else:
            path.append(subroot(node, start, middle))
            start, is_whole = middle, False
    if not is_whole:
        path.append(subroot(node, start, end))
    return path[::-1]


def _left(size: int) -> int:
    """Return how many leaves are on the left: the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether the proof shows that this leaf hash is at `index` (from 0) under this root."""
    if not 0 <= index < size:
        return False
    at, last, made = index, size - 1, leaf
    for hashed in path:
        if last == 0:
            return False
        if at % 2 or at == last:
            made = node_hash(hashed, made)
            at, last = _up(at, last)
        else:
            made = node_hash(made, hashed)
        at, last = at >> 1, last >> 1
    return last == 0 and made == root


def _up(at: int, last: int) -> tuple[int, int]:
    """Skip the levels at which the node moves up as it is."""
    while at % 2 == 0 and at:
        at, last = at >> 1, last >> 1
    return at, last


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether the proof shows that the tree of `old` leaves is the beginning of that of `new`."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    rest = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not rest:
        return False
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    first = second = rest.pop(0)
    for hashed in rest:
        if last == 0:
            return False
        if at % 2 or at == last:
            first, second = node_hash(hashed, first), node_hash(hashed, second)
            at, last = _up(at, last)
        else:
            second = node_hash(second, hashed)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
