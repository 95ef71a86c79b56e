"""A backup that is really made and really put back: what was since is gone, and only an export can tell."""

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infrastructure.postgres.server_process import binaries
from tests.asking import query
from tests.command_line import minutebook
from tests.sealing import fill, seal, sealed_checkpoints

BACKED_UP, LATER = 300, 700


def tool(name: str, url: str, *arguments: str) -> None:
    subprocess.run([str(binaries() / name), *arguments, "--dbname", url], capture_output=True, check=True)


def put_back(url: str, backup: Path) -> None:
    """Let the database be what it was when the backup was made."""
    name = urlsplit(url).path.removeprefix("/")
    maintenance = url.replace(f"/{name}?", "/postgres?")
    query(maintenance, f"DROP DATABASE {name} WITH (FORCE)")
    query(maintenance, f"CREATE DATABASE {name}")
    tool("pg_restore", url, "--exit-on-error", str(backup))


@pytest.fixture
def exported(database_url: str, tmp_path: Path) -> Path:
    """The newest checkpoint, exported before the database was put back to what it was 400 events ago."""
    fill(database_url, BACKED_UP)
    seal(database_url, tmp_path)
    backup = tmp_path / "backup"
    tool("pg_dump", database_url, "--format=custom", "--file", str(backup))
    fill(database_url, LATER - BACKED_UP)
    seal(database_url, tmp_path)
    note = tmp_path / "newest.note"
    said = minutebook(tmp_path, "audit", "checkpoint", "--export", str(note), **where(database_url, tmp_path))
    assert said.returncode == 0, said.stderr
    put_back(database_url, backup)
    assert query(database_url, "SELECT max(position) FROM log") == [(BACKED_UP,)]
    return note


def where(url: str, folder: Path) -> dict[str, Any]:
    return {"database_url": url, "keys": folder / "keys"}


def verified(url: str, folder: Path, *checkpoints: str) -> tuple[int, dict[str, Any]]:
    done = minutebook(folder, "audit", "verify", "--json", *checkpoints, **where(url, folder))
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_restored_backup_is_found_against_an_exported_checkpoint_and_only_so(
    exported: Path, database_url: str, tmp_path: Path
) -> None:
    code, said = verified(database_url, tmp_path)
    assert (code, said["events"]) == (0, BACKED_UP), "nothing in the database can tell"
    code, said = verified(database_url, tmp_path, "--checkpoint", str(exported))
    assert (code, said["first_bad_position"]) == (3, BACKED_UP + 1)
    covers = f"the checkpoint in {exported} covers {LATER} events"
    assert f"the log ends at position {BACKED_UP}, but {covers}" in said["findings"][0]["what"]


def test_a_restored_backup_that_has_grown_past_the_export_is_found_all_the_same(
    exported: Path, database_url: str, tmp_path: Path
) -> None:
    for _ in range(2):
        fill(database_url, LATER - BACKED_UP)
        seal(database_url, tmp_path)
    sizes = [one.size for one in sealed_checkpoints(database_url)]
    assert sizes[-1] > LATER
    code, said = verified(database_url, tmp_path)
    assert (code, said["sealed"]) == (0, sizes[-1])
    code, said = verified(database_url, tmp_path, "--checkpoint", str(exported))
    assert (code, said["ok"]) == (3, False)
    assert f"the checkpoint in {exported} ({LATER} events) does not fit" in str(said["findings"])
