"""Somebody with every right in the database changes what was sealed; `audit verify` finds it, and where.

The adversary is a superuser who switches the triggers off. What they do not have is the signing key, and what
they cannot reach are checkpoints that were exported before.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infrastructure.audit.leaf import leaf_hash_of
from infrastructure.audit.merkle import Growth
from infrastructure.audit.notes import Checkpoint, Signer, signed
from infrastructure.audit.rotation import rotate
from infrastructure.audit.verify import Verification, Verified, exported_in
from tests.command_line import minutebook
from tests.sealing import fill, rows_of, seal, sealed_checkpoints, signing_in

SIZES = (200, 700, 703)  # of the checkpoints; the last tile begins after 512


@dataclass(frozen=True)
class Sealed:
    """A sealed log, and what of it was exported."""

    url: str
    folder: Path
    exported: str

    def verified(self, exported: str = "") -> Verified:
        verifiers = signing_in(self.folder).verifiers_or_none()
        kept = exported_in("exported.note", exported, verifiers) if exported else []
        return Verification(self.url, verifiers, kept, workers=1).run()


@pytest.fixture
def log(database_url: str, tmp_path: Path) -> Sealed:
    """A log of 706 events, 703 of them sealed, with three checkpoints."""
    done = 0
    for size in SIZES:
        fill(database_url, size - done)
        seal(database_url, tmp_path)
        done = size
    fill(database_url, 3)
    assert [one.size for one in sealed_checkpoints(database_url)] == list(SIZES)
    return Sealed(database_url, tmp_path, sealed_checkpoints(database_url)[-1].note)


@contextmanager
def adversary(url: str) -> Iterator[psycopg.Connection]:
    """Give every right, with nothing that guards the tables."""
    with psycopg.connect(url) as connection:
        for table in ("log", "seal_tiles", "seal_checkpoints"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        yield connection
        for table in ("log", "seal_tiles", "seal_checkpoints"):
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL".encode())


def run(url: str, *statements: str) -> None:
    with adversary(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def told(found: Verified) -> str:
    return "; ".join(one.what for one in found.findings)


# ---------------------------------------------------------------- nobody has changed anything
def test_a_log_that_nobody_has_changed_fits(log: Sealed) -> None:
    found = log.verified(log.exported)
    assert found.findings == []
    assert (found.events, found.head, found.sealed) == (706, 706, 703)
    assert (found.tiles, found.checkpoints, found.exported) == (2, 3, 1)


# ---------------------------------------------------------------- one event
FORGED = """
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT {}, recorded_at, 99, 'forged', type, conversation, turn, actor, data FROM log WHERE position = 1"""
CHANGES = {
    "a byte of the data": "data = set_byte(data, 0, get_byte(data, 0) # 1)",
    "data cut short": "data = substr(data, 1, length(data) - 1)",
    "recorded_at": "recorded_at = recorded_at + interval '1 microsecond'",
    "version": "version = version + 1000",
    "stream": "stream = stream || 'x'",
    "type": "type = 'conversation.archived'",
    "conversation": "conversation = 'another'",
    "turn": "turn = ''",
    "actor": "actor = 'user:somebody-else'",
    "a boundary between columns": "turn = turn || left(actor, 1), actor = substr(actor, 2)",
}


@pytest.mark.parametrize("position", [1, 301, 702])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_column_is_found_at_its_position(log: Sealed, change: str, position: int) -> None:
    """Positions in a full tile, in another, and behind the last full one."""
    run(log.url, f"UPDATE log SET {change} WHERE position = {position}")
    found = log.verified()
    assert found.findings[0].position == position
    assert f"position {position} is not what was sealed" in told(found)
    first = next(number for number, size in enumerate(SIZES, 1) if size >= position)
    assert f"checkpoint {first} ({SIZES[first - 1]} events) does not fit" in told(found)


def test_a_changed_position_is_found(log: Sealed) -> None:
    run(log.url, "UPDATE log SET position = 10000 WHERE position = 706")
    assert "positions 706 to 9999 are missing" in told(log.verified())
    run(log.url, "UPDATE log SET position = 706 WHERE position = 10000")
    assert log.verified().is_good


def test_a_removed_event_is_found(log: Sealed) -> None:
    run(log.url, "DELETE FROM log WHERE position = 400")
    found = log.verified()
    assert (found.findings[0].position, found.findings[0].what) == (400, "position 400 is missing")


def test_a_removed_event_whose_gap_was_closed_is_found(log: Sealed) -> None:
    run(
        log.url,
        "ALTER TABLE log DROP CONSTRAINT log_position_check",
        "DELETE FROM log WHERE position = 400",
        "UPDATE log SET position = -position WHERE position > 400",
        "UPDATE log SET position = -position - 1 WHERE position < 0",
    )
    found = log.verified()
    assert found.findings[0].position == 400
    assert "position 400 is not what was sealed" in told(found)


def test_an_inserted_event_is_found(log: Sealed) -> None:
    run(
        log.url,
        "ALTER TABLE log DROP CONSTRAINT log_position_check",
        "UPDATE log SET position = -position WHERE position > 400",
        "UPDATE log SET position = -position + 1 WHERE position < 0",
        FORGED.format("401"),
    )
    found = log.verified()
    assert found.findings[0].position == 401
    assert "position 401 is not what was sealed" in told(found)


def test_an_event_inserted_before_the_first_position_is_found(log: Sealed) -> None:
    run(
        log.url,
        "ALTER TABLE log DROP CONSTRAINT log_position_check",
        FORGED.format("0"),
    )
    assert "1 rows stand before position 1" in told(log.verified())


def test_a_position_that_is_there_twice_is_found(log: Sealed) -> None:
    run(
        log.url,
        "ALTER TABLE log DROP CONSTRAINT log_pkey",
        FORGED.format("500"),
    )
    assert "position 500 is there twice" in told(log.verified())


def test_two_events_that_changed_places_are_found(log: Sealed) -> None:
    run(
        log.url,
        "UPDATE log SET position = 100000 WHERE position = 300",
        "UPDATE log SET position = 300 WHERE position = 350",
        "UPDATE log SET position = 350 WHERE position = 100000",
    )
    found = log.verified()
    assert [one.position for one in found.findings if one.hash_only] == [300, 350]


# ---------------------------------------------------------------- the end of the log
def test_a_truncated_tail_is_found_against_the_stored_checkpoints(log: Sealed) -> None:
    run(log.url, "DELETE FROM log WHERE position > 690")
    found = log.verified()
    assert "the log ends at position 690, but 703 events are sealed (2 checkpoints, from 2 on)" in told(found)
    assert found.findings[0].position == 691


ROLL_BACK = (
    "DELETE FROM log WHERE position > 200",
    "DELETE FROM seal_checkpoints WHERE size > 200",
    "DELETE FROM seal_tiles",
)


def test_a_database_put_back_to_an_older_state_is_found_only_against_an_exported_checkpoint(
    log: Sealed,
) -> None:
    run(log.url, *ROLL_BACK)
    assert log.verified().is_good, "nothing in the database can tell"
    found = log.verified(log.exported)
    assert found.findings[0].position == 201
    assert "the log ends at position 200, but the checkpoint in exported.note covers 703 events" in told(
        found
    )


def test_a_database_put_back_that_has_grown_again_is_found_against_an_exported_checkpoint(
    log: Sealed,
) -> None:
    earlier = sealed_checkpoints(log.url)[0].note
    run(log.url, *ROLL_BACK)
    fill(log.url, 900)
    seal(log.url, log.folder)
    assert log.verified().is_good, "nothing in the database can tell"
    found = log.verified(log.exported)
    assert "the checkpoint in exported.note (703 events) does not fit" in told(found)
    assert found.findings[0].position == 1, "two histories are signed, and who knows where they part"

    found = log.verified(earlier + log.exported)
    assert found.findings[0].position == 201, "they part behind the one that fits"


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


# ---------------------------------------------------------------- the command
def verify(log: Sealed, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = minutebook(
        log.folder, "audit", "verify", "--json", *arguments, database_url=log.url, keys=log.folder / "keys"
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_the_command_says_what_it_checked_and_ends_with_its_verdict(log: Sealed) -> None:
    settings = {"database_url": log.url, "keys": log.folder / "keys"}
    exported = log.folder / "exported.note"
    done = minutebook(log.folder, "audit", "checkpoint", "--export", str(exported), **settings)
    assert (done.returncode, exported.read_text()) == (0, log.exported)
    done = minutebook(log.folder, "audit", "checkpoint", "--all", **settings)
    assert done.stdout == "\n".join(one.note for one in sealed_checkpoints(log.url))

    code, said = verify(log, "--checkpoint", str(exported))
    assert (code, said["ok"], said["events"], said["exported"]) == (0, True, 706, 1)

    run(log.url, "UPDATE log SET actor = '' WHERE position = 77")
    code, said = verify(log)
    assert (code, said["ok"], said["first_bad_position"]) == (3, False, 77)
    done = minutebook(log.folder, "audit", "verify", **settings)
    assert done.returncode == 3
    assert "THE LOG DOES NOT FIT. The first position that does not: 77." in done.stdout


def test_the_command_verifies_with_public_keys_alone(log: Sealed) -> None:
    """An auditor needs no signing key: the list of public keys will do."""
    settings = {"database_url": log.url, "keys": log.folder / "keys"}
    listed = log.folder / "verifiers.txt"
    listed.write_text(minutebook(log.folder, "audit", "keys", **settings).stdout)
    done = minutebook(
        log.folder,
        "audit",
        "verify",
        "--verifiers",
        str(listed),
        database_url=log.url,
        keys=log.folder / "none",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_says_where_there_is_nothing_to_compare_with(database_url: str, tmp_path: Path) -> None:
    code, said = verify(Sealed(database_url, tmp_path, ""))
    assert (code, said["ok"], said["compared"]) == (4, True, False)


def test_the_command_changes_the_key(log: Sealed) -> None:
    settings = {"database_url": log.url, "keys": log.folder / "keys"}
    done = minutebook(log.folder, "audit", "rotate-key", "--json", **settings)
    said = json.loads(done.stdout)
    assert (said["size"], said["handed_over"]) == (703, True)
    listed = minutebook(log.folder, "audit", "keys", **settings).stdout.splitlines()
    assert listed[-1] == f"703 {said['verifier']}"
    assert verify(log)[0] == 0


def test_a_file_that_is_not_there_is_a_sentence(log: Sealed) -> None:
    done = minutebook(log.folder, "audit", "verify", "--checkpoint", "nowhere.note", database_url=log.url)
    assert done.returncode == 2
    assert "nowhere.note cannot be read: No such file or directory." in done.stderr
