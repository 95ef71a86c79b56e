"""The tree is that of RFC 6962: an independent implementation has the same roots and the same proofs."""

from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree, MerkleProof, verify_consistency, verify_inclusion

from infrastructure.audit.leaf import StoredRow, encoded
from infrastructure.audit.merkle import (
    EMPTY_ROOT,
    TILE,
    Growth,
    Tile,
    consistency_path,
    inclusion_path,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    root_of,
    split,
    subroot,
)

MOST = 600
LEAVES = [f"leaf {number}".encode() for number in range(MOST)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]
sizes = st.integers(1, MOST)


@cache
def theirs() -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in LEAVES:
        tree.append_entry(leaf)
    return tree


@cache
def node(level: int, index: int) -> bytes:
    if level == 0:
        return HASHES[index]
    return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))


def hashes_of(proof: MerkleProof) -> list[bytes]:
    return sorted(bytes.fromhex(one) for one in proof.serialize()["path"])


def test_the_empty_tree_has_the_root_that_the_rfc_gives_it() -> None:
    assert Growth().root() == EMPTY_ROOT == root_of([]) == sha256(b"").digest()


@given(sizes)
@settings(deadline=None, max_examples=50)
def test_every_way_to_the_root_gives_what_an_independent_implementation_gives(size: int) -> None:
    root = theirs().get_root(size)
    growth = Growth()
    growth.add(HASHES[:size])
    assert growth.root() == root_of(HASHES[:size]) == subroot(node, 0, size) == root


@given(st.lists(st.integers(0, 300), max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_tree_grown_in_any_steps_is_the_same(steps: list[int]) -> None:
    grown, size = Growth(), 0
    for step in steps:
        size, before = min(size + step, MOST), size
        grown.add(HASHES[before:size])
        assert (grown.size, grown.root()) == (size, root_of(HASHES[:size]))


def test_a_tree_of_many_tiles_goes_on_from_its_right_edge() -> None:
    """70,000 leaves finish a tile of the level above, too."""
    leaves = [sha256(number.to_bytes(4)).digest() for number in range(70_000)]
    growth, tiles = Growth(), dict[tuple[int, int], Tile]()
    for tile in growth.add(leaves):
        tiles[tile.level, tile.index] = tile
    assert len(tiles) == 70_000 // TILE + 1
    assert split(tiles[1, 0].hashes) == [tiles[0, index].root for index in range(TILE)]
    assert split(tiles[0, 7].hashes) == leaves[7 * TILE : 8 * TILE]
    assert growth.root() == root_of(leaves)

    full = 70_000 // TILE
    edges = [leaves[full * TILE :], [tiles[0, index].root for index in range(TILE, full)], [tiles[1, 0].root]]
    again = Growth(70_000, edges)
    more = leaves[: 3 * TILE]
    assert (again.add(more), again.root()) == (growth.add(more), growth.root())


@given(sizes, st.data())
@settings(deadline=None, max_examples=50)
def test_inclusion_is_proven_to_ourselves_and_to_an_independent_implementation(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    path, root = inclusion_path(node, index, size), root_of(HASHES[:size])
    assert is_included(HASHES[index], index, size, path, root)
    proof = theirs().prove_inclusion(index + 1, size)
    assert hashes_of(proof) == sorted([HASHES[index], *path])
    verify_inclusion(HASHES[index], root, proof)


@given(sizes, st.data())
@settings(deadline=None, max_examples=50)
def test_consistency_is_proven_to_ourselves_and_to_an_independent_implementation(
    new: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, new))
    path = consistency_path(node, old, new)
    roots = root_of(HASHES[:old]), root_of(HASHES[:new])
    assert is_consistent(old, new, *roots, path)
    verify_consistency(*roots, theirs().prove_consistency(old, new))


def test_the_proofs_are_those_of_the_example_in_the_rfc() -> None:
    """The tree of 7 leaves in RFC 6962, section 2.1.3, with its names for the nodes."""
    a, b, c, d, e, f, j = HASHES[:7]
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, l = node_hash(g, h), node_hash(i, j)  # noqa: E741 (their name)
    assert inclusion_path(node, 0, 7) == [b, h, l]
    assert inclusion_path(node, 3, 7) == [c, g, l]
    assert inclusion_path(node, 4, 7) == [f, j, k]
    assert inclusion_path(node, 6, 7) == [i, k]
    assert consistency_path(node, 3, 7) == [c, d, g, l]
    assert consistency_path(node, 4, 7) == [l]
    assert consistency_path(node, 6, 7) == [i, j, k]


@given(sizes, st.data())
@settings(deadline=None, max_examples=50)
def test_no_other_leaf_place_size_or_root_fits_a_proof(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, MOST - 1).filter(lambda it: it != index))
    path, root = inclusion_path(node, index, size), root_of(HASHES[:size])
    assert not is_included(HASHES[other], index, size, path, root)
    assert not is_included(HASHES[index], other, size, path, root)
    assert not is_included(HASHES[index], index, size, [*path, root], root)
    assert not is_included(HASHES[index], index, size, path[:-1], root) or not path
    assert not is_included(HASHES[index], index, size, path, bytes(32))


@given(sizes, st.data())
@settings(deadline=None, max_examples=50)
def test_no_other_size_or_root_fits_a_proof_of_consistency(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    path = consistency_path(node, old, new)
    roots = root_of(HASHES[:old]), root_of(HASHES[:new])
    assert not is_consistent(old, new, bytes(32), roots[1], path)
    assert not is_consistent(old, new, roots[0], bytes(32), path)
    assert not is_consistent(old, new, *roots, [*path, bytes(32)])
    assert not is_consistent(0, new, *roots, path)
    assert not is_consistent(new + 1, new, *roots, path)


# ---------------------------------------------------------------- leaves
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
rows = st.builds(
    StoredRow,
    position=st.integers(1, 2**63 - 1),
    recorded_at=st.datetimes(timezones=st.just(UTC)),
    version=st.integers(1, 2**31 - 1),
    stream=texts,
    type=texts,
    conversation=texts,
    turn=texts,
    actor=texts,
    data=st.binary(max_size=40),
)


@given(rows, rows)
def test_two_different_events_have_different_leaves(one: StoredRow, other: StoredRow) -> None:
    assert (encoded(one) == encoded(other)) == (one == other)


def test_a_boundary_that_moves_changes_the_leaf() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one = StoredRow(1, at, 1, "ab", "c", "", "", "", b"")
    assert encoded(one) != encoded(StoredRow(1, at, 1, "a", "bc", "", "", "", b""))
    assert encoded(one) != encoded(
        StoredRow(1, at + timedelta(microseconds=1), 1, "ab", "c", "", "", "", b"")
    )


def test_a_leaf_is_written_as_the_documentation_says() -> None:
    row = StoredRow(7, datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC), 2, "s", "tt", "", "é", "a", b"\x00\xff")
    assert encoded(row) == bytes.fromhex(
        "0009"
        "00000008 0000000000000007"
        "00000008 00000000000f4240"
        "00000004 00000002"
        "00000001 73"
        "00000002 7474"
        "00000000"
        "00000002 c3a9"
        "00000001 61"
        "00000002 00ff"
    )
