"""Somebody with every right in the database changes the tree and its checkpoints; `audit verify` tells."""

from pathlib import Path

import pytest

from infrastructure.audit.leaf import leaf_hash_of
from infrastructure.audit.merkle import Growth
from infrastructure.audit.notes import Checkpoint, Signer, signed
from infrastructure.audit.rotation import rotate
from infrastructure.audit.verify import Verification, Verified
from tests.sealing import fill, rows_of, seal, sealed_checkpoints, signing_in
from tests.tampering import Sealed, adversary, run, sealed_log, told


@pytest.fixture
def log(database_url: str, tmp_path: Path) -> Sealed:
    return sealed_log(database_url, tmp_path)


# ---------------------------------------------------------------- the tree itself
def rewrite(log: Sealed, *, signer: Signer | None = None) -> None:
    """Change an event, and all tiles and hashes with it; with a key, the checkpoints too."""
    run(log.url, "UPDATE log SET actor = 'user:somebody-else' WHERE position = 300")
    rows = [leaf_hash_of(row) for row in rows_of(log.url)]
    growth, begin = Growth(), 0
    with adversary(log.url) as connection:
        for one in sealed_checkpoints(log.url):
            tiles = growth.add(rows[begin : one.size])
            hashes = b"".join(rows[max(begin, one.size - one.size % 256) : one.size])
            begin = one.size
            root, note = one.root, one.note
            if signer:
                root = growth.root()
                note = signed(Checkpoint("minutebook", one.size, root), [signer])
            connection.execute(
                "UPDATE seal_checkpoints SET hashes = %s, root = %s, note = %s WHERE number = %s",
                [hashes, root, note, one.number],
            )
            for tile in tiles:
                connection.execute(
                    "UPDATE seal_tiles SET hashes = %s, root = %s WHERE level = %s AND index = %s",
                    [tile.hashes, tile.root, tile.level, tile.index],
                )


def test_a_tree_rewritten_to_match_is_found_by_the_signed_checkpoints(log: Sealed) -> None:
    rewrite(log)
    found = log.verified()
    assert found.findings[0].position == 201, "the first that no signed checkpoint vouches for"
    assert told(found) == (
        "checkpoint 2 (700 events) does not fit the log: "
        "what was signed is not what stands among positions 201 to 700, and 1 more do not"
    )


def test_checkpoints_made_anew_are_found_by_their_signature(log: Sealed) -> None:
    rewrite(log, signer=Signer("minutebook", bytes(32)))
    found = log.verified()
    assert "checkpoint 2 (700 events) is not signed by our key" in told(found)
    assert "checkpoint 1 (200 events) is not signed by our key" in told(found)


def test_checkpoints_made_anew_with_a_stolen_key_are_found_against_an_exported_one(log: Sealed) -> None:
    rewrite(log, signer=signing_in(log.folder).signer(may_create=False))
    assert log.verified().is_good, "whoever has the key can sign anything"
    found = log.verified(log.exported)
    assert "the checkpoint in exported.note (703 events) does not fit" in told(found)


A_BIT = "hashes = set_byte(hashes, 4, get_byte(hashes, 4) # 1)"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            f"UPDATE seal_tiles SET {A_BIT} WHERE index = 1",
            "position 257 is as signed, but its stored hash was changed",
        ),
        (
            f"UPDATE seal_checkpoints SET {A_BIT} WHERE number = 3",
            "position 701 is as signed, but its stored hash was changed",
        ),
        (
            "UPDATE seal_tiles SET root = set_byte(root, 5, get_byte(root, 5) # 1) WHERE index = 0",
            "the tile of positions 1 to 256 has another root",
        ),
        ("DELETE FROM seal_tiles WHERE index = 1", "the tile of positions 257 to 512 is missing"),
        (
            "INSERT INTO seal_tiles SELECT 2, 0, root, hashes FROM seal_tiles LIMIT 1",
            "1 tiles of level 0 stand beyond what is sealed",
        ),
        ("DELETE FROM seal_checkpoints WHERE number = 2", "checkpoint 2 is missing"),
        (
            "UPDATE seal_checkpoints SET size = 702 WHERE number = 2",
            "checkpoint 2 (702 events) says another size or root than its note",
        ),
        (
            "UPDATE seal_checkpoints SET root = sha256(root) WHERE number = 2",
            "checkpoint 2 (700 events) says another size or root than its note",
        ),
        (
            "UPDATE seal_checkpoints SET note = '' WHERE number = 1",
            "checkpoint 1 (200 events) has no valid note",
        ),
    ],
)
def test_a_change_of_what_was_stored_of_the_tree_is_found_and_told_from_one_of_an_event(
    log: Sealed, change: str, expected: str
) -> None:
    run(log.url, change)
    found = log.verified(log.exported)
    assert expected in told(found)
    assert "not what was sealed" not in told(found), "the events are as they were signed"


# ---------------------------------------------------------------- several processes
def test_a_log_of_several_ranges_is_verified_by_several_processes(database_url: str, tmp_path: Path) -> None:
    """A range is 65,536 events; what is found in the second is named by its position in the log."""
    fill(database_url, 66_000)
    seal(database_url, tmp_path)
    verifiers, seen = signing_in(tmp_path).verifiers(), list[tuple[int, int]]()

    def verified() -> Verified:
        return Verification(
            database_url, verifiers, workers=2, on_progress=lambda *step: seen.append(step)
        ).run()

    found = verified()
    assert (found.findings, found.events, found.tiles) == ([], 66_000, 66_000 // 256)
    assert seen == [(65_536, 66_000), (66_000, 66_000)]

    run(database_url, "UPDATE log SET actor = '' WHERE position IN (65900, 65901)")
    assert [one.position for one in verified().findings if one.hash_only] == [65_900, 65_901]
    run(database_url, "UPDATE log SET actor = 'user:Zoë' WHERE position > 65800")
    assert verified().is_good

    run(
        database_url,
        f"UPDATE seal_tiles SET {A_BIT} WHERE level = 1",
    )
    assert "the tile over positions 1 to 65536 is as signed" not in told(verified())
    assert "the tile over positions 1 to 65536 is not what its events give" in told(verified())


def test_a_log_that_grows_and_is_sealed_while_it_is_verified_fits(database_url: str, tmp_path: Path) -> None:
    """Also where tiles of the second level come in between, and where a key is replaced."""
    fill(database_url, 65_500)
    seal(database_url, tmp_path)
    fill(database_url, 700)

    def grow(position: int, head: int) -> None:
        if position == head:
            fill(database_url, 300)
        rotate(database_url, signing_in(tmp_path))
        seal(database_url, tmp_path)

    found = Verification(database_url, signing_in(tmp_path).verifiers(), workers=1, on_progress=grow).run()
    assert (told(found), found.head, found.sealed) == ("", 66_200, 65_500)
    assert Verification(database_url, signing_in(tmp_path).verifiers(), workers=1).run().is_good


# ---------------------------------------------------------------- keys
def test_a_log_sealed_with_keys_that_followed_each_other_fits(log: Sealed) -> None:
    done = rotate(log.url, signing_in(log.folder))
    assert (done.size, done.is_handed_over) == (703, True)
    seal(log.url, log.folder)
    found = log.verified(log.exported)
    assert (found.findings, found.checkpoints, found.sealed) == ([], 5, 706)


def test_the_old_key_signs_nothing_after_it_was_replaced(log: Sealed) -> None:
    """Else a key that was stolen, and replaced for that, would go on being believed."""
    stolen = signing_in(log.folder).signer(may_create=False)
    rotate(log.url, signing_in(log.folder))
    seal(log.url, log.folder)
    newest = sealed_checkpoints(log.url)[-1]
    note = signed(Checkpoint("minutebook", newest.size, newest.root), [stolen])
    with adversary(log.url) as connection:
        connection.execute("UPDATE seal_checkpoints SET note = %s WHERE number = %s", [note, newest.number])
    assert "is signed by a key that was not in use at its size" in told(log.verified())


def test_a_lost_key_is_followed_by_a_new_one_without_its_consent(log: Sealed) -> None:
    (log.folder / "keys" / "signing.key").unlink()
    assert not rotate(log.url, signing_in(log.folder)).is_handed_over
    seal(log.url, log.folder)
    assert log.verified(log.exported).is_good


def test_an_exported_checkpoint_of_somebody_else_is_refused(log: Sealed) -> None:
    newest = sealed_checkpoints(log.url)[-1]
    forged = signed(Checkpoint("minutebook", newest.size, newest.root), [Signer("minutebook", bytes(32))])
    assert "the checkpoint in exported.note is not signed by our key" in told(log.verified(forged))
