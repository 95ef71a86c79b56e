"""An export that was kept elsewhere is compared with signed checkpoints, and needs no database for it."""

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from application.exporting import Selection
from infrastructure.exports.operating import prove_export
from tests.command_line import minutebook
from tests.exported import lines_of, manifest_of, written
from tests.sealing import fill, fill_and_seal, sealed_checkpoints, signing_in

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

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


def verified(
    folder: Path, *more: str, options: tuple[str, ...] = ("--checkpoint", "notes", "--verifiers", "verifiers")
) -> tuple[int, dict[str, Any], str]:
    # A database that is not there: none is asked.
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    given = ("audit", "verify-export", "log.manifest.json", *options, "--json", *more)
    done = minutebook(folder, *given, database_url=url)
    return done.returncode, json.loads(done.stdout.splitlines()[-1] if done.stdout else "{}"), done.stderr


def forged(file: Path, lines: list[dict[str, Any]]) -> None:
    forged_bytes(file, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def forged_bytes(file: Path, content: bytes) -> None:
    """Write an export anew with a manifest that fits it, as somebody with access to both can."""
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


def test_the_checkpoint_in_the_manifest_will_do(folder: Path) -> None:
    code, said, errors = verified(folder, options=("--verifiers", "verifiers"))
    assert (code, said["checkpoints"]) == (0, [300]), errors
    forged(folder / "log", [{**line, "actor": "user:somebody"} for line in lines_of(folder / "log")])
    code, said, _ = verified(folder, options=("--verifiers", "verifiers"))
    assert (code, said["ok"], said["first"], said["last"]) == (3, False, 1, 300)


def test_the_checkpoint_in_the_manifest_is_of_what_was_exported(folder: Path, database_url: str) -> None:
    """What is sealed while an export is being written is no use to whoever compares it."""
    for name in ("log", "log.manifest.json"):
        (folder / name).unlink()
    written(database_url, folder / "log", "ndjson", Selection(last=299))
    assert manifest_of(folder / "log")["checkpoint"].splitlines()[1] == "256"


def test_nothing_to_compare_with_is_no_proof(folder: Path, database_url: str) -> None:
    for name in ("log", "log.manifest.json"):
        (folder / name).unlink()
    written(database_url, folder / "log", "ndjson", Selection(last=99))
    code, said, errors = verified(folder)
    assert (code, said["ok"], said["checkpoints"]) == (4, True, []), errors
    assert verified(folder, options=("--verifiers", "verifiers"))[0] == 4


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


LINES = {
    "no JSON": b"rubbish",
    "no UTF-8": b"\xff\xfe",
    "no object": b"[]",
    "no columns": b'{"position":101}',
    "nested without end": b"[" * 100_000,
    "nothing": b"",
}
COLUMNS: dict[str, dict[str, Any]] = {
    "a position that is none": {"position": "x"},
    "a position beyond all": {"position": 2**70},
    "a version that is none": {"version": None},
    "half a pair of surrogates": {"actor": "\ud800"},
    "an actor that is no text": {"actor": 5},
    "a time that is none": {"recorded_at": "x"},
    "a time without a zone": {"recorded_at": "2026-11-23T00:00:00"},
    "bytes that are no base64": {"stored": "!!"},
}


def line_101(name: str, lines: list[bytes]) -> bytes:
    if name in LINES:
        return LINES[name]
    return json.dumps({**json.loads(lines[100]), **COLUMNS[name]}).encode()


@pytest.mark.parametrize("name", [*LINES, *COLUMNS])
def test_a_line_that_is_no_event_is_named(name: str, folder: Path) -> None:
    lines = (folder / "log").read_bytes().splitlines()
    forged_bytes(folder / "log", b"\n".join([*lines[:100], line_101(name, lines), *lines[101:], b""]))
    checked = prove_export(
        folder / "log.manifest.json",
        {"notes": (folder / "notes").read_text()},
        (folder / "verifiers").read_text(),
    )
    assert (checked.first, checked.last, checked.checkpoints) == (101, 101, [100])
    assert "line 101 is no event" in str(checked.reason)


def test_lines_that_are_missing_are_named(folder: Path) -> None:
    lines = (folder / "log").read_bytes().splitlines(keepends=True)
    forged_bytes(folder / "log", b"".join(lines[:299]))
    code, said, errors = verified(folder)
    assert (code, said["ok"], said["first"], errors) == (3, False, 300, "")


@pytest.mark.parametrize("content", ["", "position,actor\n1,x\n", "minutebook\n3\n\n— minutebook AAAA\n"])
def test_what_is_no_checkpoint_is_a_wrong_option(content: str, folder: Path) -> None:
    (folder / "notes").write_text(content)
    code, _, errors = verified(folder)
    assert (code, errors.count("\n"), "minutebook: notes " in errors) == (2, 1, True), errors


@pytest.mark.parametrize("content", ["", "# nothing\n", "position,actor\n", "² x\n"])
def test_what_is_no_list_of_public_keys_is_a_wrong_option(content: str, folder: Path) -> None:
    (folder / "verifiers").write_text(content)
    code, _, errors = verified(folder)
    assert (code, errors.count("\n"), "minutebook: verifiers " in errors) == (2, 1, True), errors
