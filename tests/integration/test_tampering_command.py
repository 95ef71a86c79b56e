"""What `minutebook audit verify` says and how it ends, about logs that fit and logs that do not."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import minutebook
from tests.sealing import seal, sealed_checkpoints
from tests.tampering import ROLL_BACK, Sealed, run, sealed_log

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not


@pytest.fixture
def log(database_url: str, tmp_path: Path) -> Sealed:
    return sealed_log(database_url, tmp_path)


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


def test_events_that_nobody_has_sealed_for_long_are_told_loudly(log: Sealed) -> None:
    settings = {"database_url": log.url, "keys": log.folder / "keys"}
    done = minutebook(log.folder, "audit", "verify", **settings)
    assert done.returncode == 0
    assert re.search(r"3 events, the first of 20\d\d-.* UTC, are not sealed yet: they can", done.stdout)
    code, said = verify(log)
    assert (code, said["unsealed"], said["sealing_stopped"]) == (0, 3, False)

    run(log.url, "UPDATE log SET recorded_at = recorded_at - interval '61 s' WHERE position > 703")
    code, said = verify(log)
    assert (code, said["ok"], said["unsealed"], said["sealing_stopped"]) == (5, True, 3, True)
    assert said["unsealed_since"] < datetime.now(UTC).isoformat()
    done = minutebook(log.folder, "audit", "verify", **settings)
    assert (done.returncode, "THE SEALING HAS STOPPED: 3 events" in done.stdout) == (5, True)
    assert minutebook(log.folder, "audit", "verify", seal_s=4, **settings).returncode == 0

    seal(log.url, log.folder)
    code, said = verify(log)
    assert (code, said["unsealed"], said["unsealed_since"]) == (0, 0, None)


def test_a_kept_checkpoint_is_not_overwritten_by_one_of_an_older_state(log: Sealed) -> None:
    """It is all that tells of a database that was put back, and a crontab would write over it."""
    settings = {"database_url": log.url, "keys": log.folder / "keys"}
    kept = log.folder / "kept.note"
    for content in ("", sealed_checkpoints(log.url)[0].note, log.exported):
        kept.write_text(content)
        done = minutebook(log.folder, "audit", "checkpoint", "--export", str(kept), **settings)
        assert (done.returncode, kept.read_text()) == (0, log.exported)
    run(log.url, *ROLL_BACK)
    done = minutebook(log.folder, "audit", "checkpoint", "--export", str(kept), **settings)
    assert (done.returncode, kept.read_text(), done.stdout) == (3, log.exported, "")
    assert "has a checkpoint of 703 events, and the newest here is of 200" in done.stderr


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


def test_the_command_changes_the_key_but_not_one_that_others_can_read(log: Sealed) -> None:
    settings = {"database_url": log.url, "keys": log.folder / "keys"}
    (log.folder / "keys/signing.key").chmod(0o644)
    refused = minutebook(log.folder, "audit", "rotate-key", **settings)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "others can read the file" in refused.stderr
    (log.folder / "keys/signing.key").chmod(0o600)
    done = minutebook(log.folder, "audit", "rotate-key", "--json", **settings)
    said = json.loads(done.stdout)
    assert (said["size"], said["handed_over"]) == (703, True)
    listed = minutebook(log.folder, "audit", "keys", **settings).stdout.splitlines()
    assert listed[-1] == f"703 {said['verifier']}"
    assert verify(log)[0] == 0


def test_a_key_that_is_no_new_one_is_not_changed_to(log: Sealed) -> None:
    given = {
        "database_url": log.url,
        "keys": log.folder / "keys",
        "signing_key": log.folder / "keys/signing.key",
    }
    before = sealed_checkpoints(log.url)
    done = minutebook(log.folder, "audit", "rotate-key", **given)
    assert done.returncode == 1
    assert "MINUTEBOOK_SIGNING_KEY is the one that signs already; set the new one first" in done.stderr
    assert sealed_checkpoints(log.url) == before
    assert verify(log)[0] == 0


def test_a_file_that_is_not_there_is_a_sentence(log: Sealed) -> None:
    done = minutebook(log.folder, "audit", "verify", "--checkpoint", "nowhere.note", database_url=log.url)
    assert done.returncode == 2
    assert "nowhere.note cannot be read: No such file or directory." in done.stderr
