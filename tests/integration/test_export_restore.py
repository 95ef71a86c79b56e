"""An export becomes the log of an empty store, bit by bit, and everything goes on from there."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from application.exporting import RestoreError, Selection, selected
from infrastructure.exports.operating import restore_export, write_export
from infrastructure.postgres.schema import migrate
from infrastructure.projections.follow import Projector
from infrastructure.projections.operating import make_tables
from infrastructure.projections.rebuild import Rebuild
from infrastructure.projections.registry import READ_MODELS
from infrastructure.vault import Vault
from tests.command_line import minutebook
from tests.exported import append, fill, stored
from tests.opened import vault
from tests.projecting import held, is_at, wait_until
from tests.serving import Refused, Serving, serving_reads


def written(url: str, file: Path, selection: Selection | None = None, *, with_keys: bool = False) -> Path:
    assert write_export(url, vault(), selection or Selection(), "ndjson", file, with_keys=with_keys)
    return file


def restored(url: str, file: Path) -> int:
    return restore_export(url, vault(), file)


def followed(url: str, head: int) -> dict[str, Any]:
    """Let every read model follow the log to its end, and return all rows."""
    make_tables(url, READ_MODELS)
    projector = Projector(url, READ_MODELS, vault=vault())
    asyncio.run(projector.start())
    for model in READ_MODELS:
        wait_until(is_at(url, model, head))
    asyncio.run(projector.stop())
    return {model.name: held(url, model) for model in READ_MODELS}


def rebuilt(url: str) -> dict[str, Any]:
    """Build every read model anew from the log, and return all rows."""
    make_tables(url, READ_MODELS)
    for model in READ_MODELS:
        assert Rebuild(url, model, workers=1, vault=vault()).run() > 0
    return {model.name: held(url, model) for model in READ_MODELS}


async def talk(server: Serving) -> dict[str, str]:
    """Say all kinds of things; returns the turn of what was said first in each conversation."""
    turns = {}
    for conversation, said in (
        ("a", "hello"),
        ("b", "read README.md"),
        ("c", "coder: write a.txt"),
        ("d", "switch to debug"),
        ("e", "plan a small house"),
    ):
        turns[conversation] = str(uuid4())
        await server.client.say(said, conversation_id=conversation, turn_id=turns[conversation])
    await server.client.say('nasty "\n\\ \u2028 😀', conversation_id="a")
    return turns


async def test_a_log_that_is_exported_and_taken_in_is_the_same_and_goes_on(
    database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    async with serving_reads(database_url) as server:
        turns = await talk(server)
    options = ("audit", "export", "--to", "log.ndjson", "--with-keys")
    done = await asyncio.to_thread(minutebook, tmp_path, *options, database_url=database_url)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "log.ndjson"
    assert (tmp_path / "log.ndjson.keys").stat().st_mode & 0o777 == 0o600
    done = await asyncio.to_thread(
        minutebook, tmp_path, "import", str(file), "--json", database_url=bare_database_url
    )
    log = await asyncio.to_thread(stored, database_url)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"restored": len(log)}), done.stderr
    assert await asyncio.to_thread(stored, bare_database_url) == log
    rows = await asyncio.to_thread(followed, database_url, len(log))
    assert await asyncio.to_thread(rebuilt, bare_database_url) == rows
    assert all(rows.values())
    async with serving_reads(bare_database_url) as server:
        frames = await server.client.say("and now?", conversation_id="a")
        assert frames[-1].type == "turn.committed"
        assert frames[-1].data["first_position"] == len(log) + 1
        with pytest.raises(Refused) as refused:  # its turn is known: it is not run a second time
            await server.client.say("hello", conversation_id="a", turn_id=turns["a"])
        assert refused.value.code == "turn_id_reused"
    assert (await asyncio.to_thread(stored, bare_database_url))[: len(log)] == log


async def test_the_turns_of_the_log_are_known_again_with_their_positions(
    database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    async with serving_reads(database_url) as server:
        await talk(server)
    columns = "id, conversation, subject, kind, state, first_position, last_position"
    found = []
    file = await asyncio.to_thread(written, database_url, tmp_path / "log.ndjson", with_keys=True)
    await asyncio.to_thread(minutebook, tmp_path, "import", str(file), database_url=bare_database_url)
    for url in (database_url, bare_database_url):
        async with await psycopg.AsyncConnection.connect(url) as connection:
            cursor = await connection.execute(f"SELECT {columns} FROM turns ORDER BY id".encode())
            found.append(await cursor.fetchall())
    assert found[0] == found[1]


def test_stored_bytes_come_back_whatever_they_are(
    database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    append(database_url, [bytes(range(256)), b"", b'{"a": 1e2,  "a":"\\ud800"}', b"\xff\xfe", b"[]"])
    file = written(database_url, tmp_path / "log.ndjson")
    assert minutebook(tmp_path, "import", str(file), database_url=bare_database_url).returncode == 0
    assert stored(bare_database_url) == stored(database_url)
    again = written(bare_database_url, tmp_path / "again.ndjson")
    assert again.read_bytes() == file.read_bytes()


# --- what is refused ------------------------------------------------------------------------------


def cut(lines: list[bytes]) -> bytes:
    return b"".join(lines)[:-50]


def gap(lines: list[bytes]) -> bytes:
    return b"".join(lines[:7] + lines[8:])


def twice(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:7], lines[6], *lines[7:]])


def swapped(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:4], lines[5], lines[4], *lines[6:]])


def lean(lines: list[bytes]) -> bytes:
    return b"".join(line.replace(b'"stored"', b'"bytes"') for line in lines)


def same_version(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:3], lines[3].replace(b'"version":4', b'"version":3'), *lines[4:]])


def zoneless(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:3], lines[3].replace(b'Z"', b'"', 1), *lines[4:]])


def endless(lines: list[bytes]) -> bytes:
    return b"".join([*lines[:3], b"[" * 100_000 + b"\n", *lines[4:]])


@pytest.mark.parametrize("damage", [cut, gap, twice, swapped, lean, same_version, zoneless, endless])
def test_a_damaged_export_is_refused_and_nothing_is_changed(
    damage: Callable[[list[bytes]], bytes], database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    fill(database_url, 20)
    file = written(database_url, tmp_path / "log.ndjson")
    (tmp_path / "log.ndjson.manifest.json").unlink()
    file.write_bytes(damage(file.read_bytes().splitlines(keepends=True)))
    migrate(bare_database_url)
    with pytest.raises(RestoreError):
        restored(bare_database_url, file)
    assert stored(bare_database_url) == []


@pytest.mark.parametrize(
    "asked", [("2", None, None, ()), (None, None, "c1", ()), (None, None, None, ("*sent",))]
)
def test_a_part_of_a_log_is_no_log(
    asked: tuple[Any, ...], database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    fill(database_url, 20)
    file = written(database_url, tmp_path / "log.ndjson", selected(*asked))
    migrate(bare_database_url)
    with pytest.raises(RestoreError):
        restored(bare_database_url, file)
    assert stored(bare_database_url) == []


def test_a_changed_byte_is_found_by_the_manifest(
    database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    fill(database_url, 20)
    file = written(database_url, tmp_path / "log.ndjson")
    file.write_bytes(file.read_bytes().replace(b"user:local", b"user:lokal", 1))
    done = minutebook(tmp_path, "import", str(file), database_url=bare_database_url)
    assert (done.returncode, "not what its manifest says" in done.stderr) == (1, True)
    assert stored(bare_database_url) == []


async def test_sealed_contents_need_their_keys_and_the_same_master_key(
    database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    async with serving_reads(database_url) as server:
        await server.client.say("hello", conversation_id="a")
    file = await asyncio.to_thread(written, database_url, tmp_path / "log.ndjson", with_keys=True)
    await asyncio.to_thread(migrate, bare_database_url)
    with pytest.raises(RestoreError, match="another master key"):
        await asyncio.to_thread(restore_export, bare_database_url, Vault(bytes(32)), file)
    (tmp_path / "log.ndjson.keys").rename(tmp_path / "elsewhere")
    with pytest.raises(RestoreError, match="are missing"):
        await asyncio.to_thread(restored, bare_database_url, file)
    assert await asyncio.to_thread(stored, bare_database_url) == []


def without_one(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines[1:]


def one_twice(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*lines, lines[0]]


def neither_erased_nor_there(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**lines[0], "wrapped": None}, *lines[1:]]


def at_no_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**lines[0], "created_at": "2026-03-01"}, *lines[1:]]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(without_one, "has no key of the conversation"), (one_twice, "twice"),
     (neither_erased_nor_there, "is no file of keys"), (at_no_time, "is no file of keys")],
)  # fmt: skip
async def test_keys_that_are_not_those_of_the_log_are_refused_and_nothing_is_changed(
    damage: Callable[[Any], Any], reason: str, database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    async with serving_reads(database_url) as server:
        for name in ("a", "b"):
            await server.client.say("hello", conversation_id=name)
    file = await asyncio.to_thread(written, database_url, tmp_path / "log.ndjson", with_keys=True)
    keys = tmp_path / "log.ndjson.keys"
    lines = [json.loads(line) for line in keys.read_text().splitlines()]
    keys.write_text("".join(json.dumps(line) + "\n" for line in damage(lines)))
    await asyncio.to_thread(migrate, bare_database_url)
    with pytest.raises(RestoreError, match=reason):
        await asyncio.to_thread(restored, bare_database_url, file)
    assert await asyncio.to_thread(stored, bare_database_url) == []


def test_only_an_empty_store_takes_an_export(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 20)
    file = written(database_url, tmp_path / "log.ndjson")
    before = stored(database_url)
    done = minutebook(tmp_path, "import", str(file), database_url=database_url)
    assert (done.returncode, "the store is not empty" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert stored(database_url) == before
