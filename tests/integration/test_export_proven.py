"""An export that was kept elsewhere is compared with signed checkpoints, and needs no database for it."""

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from application.exporting import Selection
from tests.command_line import minutebook
from tests.exported import lines_of, manifest_of
from tests.integration.test_export import written
from tests.sealing import fill, fill_and_seal, sealed_checkpoints, signing_in

SIZES = (100, 256, 300)


@pytest.fixture
def folder(database_url: str, tmp_path: Path) -> Path:
    """An export of 310 events, the checkpoints at three sizes, and the public key."""
    fill_and_seal(database_url, tmp_path, SIZES)
    fill(database_url, 10)
    written(database_url, tmp_path / "log", "ndjson")
    notes = [one.note for one in sealed_checkpoints(database_url)]
    (tmp_path / "notes").write_text("\n".join(notes))
    keys = [f"{one.size} {one.verifier.vkey}" for one in signing_in(tmp_path).verifiers()]
    (tmp_path / "verifiers").write_text("\n".join(keys))
    return tmp_path


def verified(folder: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    # A database that is not there: none is asked.
    options = ("--checkpoint", "notes", "--verifiers", "verifiers", "--json", *more)
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    done = minutebook(folder, "audit", "verify-export", "log.manifest.json", *options, database_url=url)
    return done.returncode, json.loads(done.stdout.splitlines()[-1] if done.stdout else "{}"), done.stderr


def forged(file: Path, lines: list[dict[str, Any]]) -> None:
    """Write an export anew with a manifest that fits it, as somebody with access to both can."""
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file.write_bytes(content)
    digest = {"sha256": sha256(content).hexdigest()}
    said = manifest_of(file)
    chunk = {**said["chunks"][0], "end": len(content), **digest}
    manifest = {**said, "bytes": len(content), **digest, "chunks": [chunk]}
    file.with_name("log.manifest.json").write_text(json.dumps(manifest))


def test_an_export_is_what_was_sealed(folder: Path) -> None:
    code, said, errors = verified(folder)
    assert code == 0, errors
    assert (said["ok"], set(SIZES) <= set(said["checkpoints"])) == (True, True)
    assert manifest_of(folder / "log")["checkpoint"] in (folder / "notes").read_text()


@pytest.mark.parametrize("column", ["actor", "turn", "recorded_at", "stored", "type"])
def test_a_forged_export_with_a_fitting_manifest_is_found_out(column: str, folder: Path) -> None:
    lines = lines_of(folder / "log")
    lines[149][column] = {
        "recorded_at": "2020-01-01T00:00:00Z",
        "stored": base64.b64encode(b"{}").decode(),
    }.get(column, "somebody")
    forged(folder / "log", lines)
    code, said, _ = verified(folder)
    assert (code, said["ok"]) == (3, False)
    assert said["first"] <= 150 <= said["last"] <= 256
    assert said["first"] > 100


def test_a_checkpoint_that_we_have_not_signed_proves_nothing(folder: Path) -> None:
    notes = (folder / "notes").read_text().splitlines()
    notes[1] = str(int(notes[1]) - 1)
    (folder / "notes").write_text("\n".join(notes) + "\n")
    code, said, _ = verified(folder)
    assert (code, "is not signed by our key" in str(said["reason"])) == (3, True)


def test_what_cannot_be_compared_is_refused(folder: Path, database_url: str) -> None:
    for name in ("log", "log.manifest.json"):
        (folder / name).unlink()
    written(database_url, folder / "log", "ndjson", Selection(first=2))
    code, _, errors = verified(folder)
    assert (code, "only a whole log" in errors) == (1, True)
