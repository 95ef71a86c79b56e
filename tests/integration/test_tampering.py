"""Somebody with every right in the database changes what was sealed; `audit verify` finds it, and where.

The adversary is a superuser who switches the triggers off. What they do not have is the signing key, and what
they cannot reach are checkpoints that were exported before.
"""

import asyncio
from pathlib import Path

import pytest

from api.bootstrap.seals import checkpoint_notes
from infrastructure.audit.leaf import COLUMNS
from tests.asking import query
from tests.sealing import fill, seal, sealed_checkpoints
from tests.serving import serving_reads
from tests.tampering import ROLL_BACK, SIZES, Sealed, run, sealed_log, told


@pytest.fixture
def log(database_url: str, tmp_path: Path) -> Sealed:
    return sealed_log(database_url, tmp_path)


# ---------------------------------------------------------------- nobody has changed anything
def test_a_log_that_nobody_has_changed_fits(log: Sealed) -> None:
    found = log.verified(log.exported)
    assert found.findings == []
    assert (found.events, found.head, found.sealed) == (706, 706, 703)
    assert (found.tiles, found.checkpoints, found.exported) == (2, 3, 1)


async def test_another_encoding_of_the_environment_changes_nothing(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Zoë` is in the log, and other letters that LATIN1 does not have."""
    fill(database_url, 20)
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    await asyncio.to_thread(seal, database_url, tmp_path)
    (note,) = checkpoint_notes(database_url)
    found = await asyncio.to_thread(Sealed(database_url, tmp_path, note).verified, note)
    assert (found.findings, found.exported) == ([], 1)
    async with serving_reads(database_url) as server:
        frames = await server.client.say("漢字 — ü", conversation_id="c-new")
        where = {"min_position": frames[-1].data["last_position"]}
        answer = await server.client.http.get("/v1/conversations/c-new/messages", params=where)
        assert answer.json()["entries"][0]["text"] == "漢字 — ü"


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


def test_no_column_of_the_log_is_left_out(database_url: str) -> None:
    """A column that is added and not sealed could be changed unseen."""
    (row,) = query(database_url, "SELECT array_agg(column_name::text) FROM information_schema.columns"
                                 " WHERE (table_schema, table_name) = ('public', 'log')")  # fmt: skip
    assert set(row[0]) == set(COLUMNS.split(", "))
    changed = {
        part.split(" = ")[0] for change in CHANGES.values() for part in change.split(", ") if " = " in part
    }
    assert changed | {"position"} == set(row[0])


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
