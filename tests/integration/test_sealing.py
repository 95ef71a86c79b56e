"""The log is sealed while it grows: by one process at a time, with a key that has to be there."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from api.bootstrap.seals import check_signing_key
from api.settings import Settings, SettingsError
from infrastructure.audit.leaf import encoded, leaf_hash_of, read_leaves
from infrastructure.audit.merkle import root_of
from infrastructure.audit.notes import parsed
from infrastructure.audit.rotation import rotate
from infrastructure.audit.sealer import Sealer
from infrastructure.audit.signing import Signing
from tests.integration.saves import CuttingProxy
from tests.sealing import fill, rows_of, seal, sealed_checkpoints, signing_in, wait_until
from tests.serving import ServerProcess, serving
from tests.tampering import run


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


def newest_size(url: str) -> int:
    return max((one.size for one in sealed_checkpoints(url)), default=0)


# ---------------------------------------------------------------- what is sealed
def test_a_leaf_is_what_postgresql_copies(database_url: str) -> None:
    fill(database_url, 20)
    with psycopg.connect(database_url) as connection:
        copied = [bytes(leaf) for leaf in read_leaves(connection, 3, 17)]
        assert copied == [encoded(row) for row in rows_of(database_url)[3:17]]
        assert list(read_leaves(connection, 20, 30)) == []


async def test_whoever_waits_for_leaves_holds_up_nobody_else_in_the_process(database_url: str) -> None:
    """The database is reached through this very loop: a reader that stopped it would wait for ever."""
    fill(database_url, 20)

    def read(url: str) -> int:
        with psycopg.connect(url) as connection:
            return len(list(read_leaves(connection, 0, 20)))

    async with CuttingProxy(database_url) as proxy:
        assert await asyncio.to_thread(read, proxy.url) == 20


@pytest.mark.parametrize("steps", [[1], [255, 1, 1], [256], [3, 700, 2, 2], [513, 255]])
def test_each_checkpoint_has_the_root_over_all_columns_of_all_events(
    database_url: str, tmp_path: Path, steps: list[int]
) -> None:
    for step in steps:
        fill(database_url, step)
        seal(database_url, tmp_path)
    hashes = [leaf_hash_of(row) for row in rows_of(database_url)]
    checkpoints = sealed_checkpoints(database_url)
    assert [one.size for one in checkpoints] == [sum(steps[: n + 1]) for n in range(len(steps))]
    (verifier,) = signing_in(tmp_path).verifiers()
    for one in checkpoints:
        note = parsed(one.note)
        assert (note.checkpoint().size, note.checkpoint().root) == (one.size, one.root)
        assert one.root == root_of(hashes[: one.size])
        assert verifier.verifier.has_signed(note)


async def test_a_server_seals_what_is_said_within_moments(database_url: str) -> None:
    async with serving(database_url, seal_s=0.05) as server:
        frames = await server.client.say("hello")
        last = frames[-1].data["last_position"]
        await until(lambda: newest_size(database_url) == last)
        ready = (await server.client.http.get("/health/ready")).json()
        assert (ready["status"], ready["sealing"]) == ("ok", "ok")


def test_nothing_new_makes_no_checkpoint(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 3)
    sealer = Sealer(database_url, signing_in(tmp_path), interval_s=0.01)
    sealer.start()
    wait_until(lambda: newest_size(database_url) == 3)
    time.sleep(0.3)
    asyncio.run(sealer.stop())
    assert len(sealed_checkpoints(database_url)) == 1


@pytest.mark.parametrize("table", ["seal_tiles", "seal_checkpoints"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET root = root", "DELETE FROM {}", "TRUNCATE {}"])
def test_what_is_sealed_is_never_changed(database_url: str, table: str, statement: str) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.RestrictViolation, match="append-only"),
    ):
        connection.execute(statement.format(table).encode())


# ---------------------------------------------------------------- one at a time
def test_of_two_servers_one_seals_and_the_other_takes_over_when_it_is_killed(
    database_url: str, server_folder: Path
) -> None:
    with (
        ServerProcess(server_folder, database_url=database_url, seal_s=0.05) as one,
        ServerProcess(server_folder, database_url=database_url, seal_s=0.05) as other,
    ):
        said = say(one.url)
        wait_until(partial(is_sealed, database_url, said))
        one.kill()
        said = say(other.url)
        wait_until(partial(is_sealed, database_url, said))
    sizes = [checkpoint.size for checkpoint in sealed_checkpoints(database_url)]
    assert sizes == sorted(set(sizes))


def is_sealed(url: str, position: int) -> bool:
    return newest_size(url) == position


def say(url: str) -> int:
    """Say something, and return the newest position."""
    body = {"message": {"type": "user_message", "content": "hello"}}
    said = httpx.post(f"{url}/v1/messages/stream", json=body, timeout=30, verify=False).text
    return int(said.rpartition('"last_position":')[2].partition(",")[0])


def test_events_are_sealed_by_whoever_comes_next(database_url: str, tmp_path: Path) -> None:
    """Each of them goes on from what the one before has stored."""
    writing = threading.Thread(target=fill_often, args=(database_url,))
    writing.start()
    while writing.is_alive():
        seal(database_url, tmp_path)
    seal(database_url, tmp_path)
    newest = sealed_checkpoints(database_url)[-1]
    assert (newest.size, newest.root) == (1050, root_of([leaf_hash_of(row) for row in rows_of(database_url)]))


def fill_often(url: str) -> None:
    for _ in range(150):
        fill(url, 7)


# ---------------------------------------------------------------- the key
async def test_without_its_key_sealing_stops_loudly_and_nothing_else_does(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    async with serving(database_url, seal_s=0.05, signing_key=None, keys=keys) as server:
        await server.client.say("before")
        await until(lambda: newest_size(database_url) > 0)
    kept = (keys / "signing.key").read_bytes()
    (keys / "signing.key").unlink()

    async with serving(database_url, seal_s=0.05, signing_key=None, keys=keys) as server:
        sealed = newest_size(database_url)
        frames = await server.client.say("after")
        assert frames[-1].type == "turn.committed"
        await until(lambda: is_stopped(server.url))
        ready = await server.client.http.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["sealing"] == "The signing key cannot be used; the log says why."
        assert str(keys) not in ready.text
        assert newest_size(database_url) == sealed
        assert not (keys / "signing.key").exists(), "a lost key is not quietly replaced"

        (keys / "signing.key").write_bytes(kept)
        (keys / "signing.key").chmod(0o600)
        await until(lambda: newest_size(database_url) == frames[-1].data["last_position"])
        await until(lambda: not is_stopped(server.url))


def is_stopped(url: str) -> bool:
    return "seal_failed 1.0" in httpx.get(f"{url}/metrics", verify=False).text.splitlines()


def stopped(sealer: Sealer) -> str:
    """Let it try, and return why it has stopped."""
    sealer.start()
    wait_until(lambda: sealer.trouble)
    asyncio.run(sealer.stop())
    return str(sealer.trouble)


def test_another_key_does_not_go_on_sealing(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 3)
    seal(database_url, tmp_path)
    other = Signing("minutebook", tmp_path, base64.b64encode(bytes(32)).decode())
    why = stopped(Sealer(database_url, other, interval_s=0.05))
    assert "not signed with this key and origin" in why


def test_a_log_that_ends_before_what_is_sealed_is_not_sealed_on(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 5)
    seal(database_url, tmp_path)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE log DISABLE TRIGGER log_append_only")
        connection.execute("DELETE FROM log WHERE position = 5")
    why = stopped(Sealer(database_url, signing_in(tmp_path), interval_s=0.05))
    assert "the log ends at 4, but 5 events are sealed" in why


def test_a_tree_that_was_changed_is_not_sealed_on(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 5)
    seal(database_url, tmp_path)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE seal_checkpoints DISABLE TRIGGER seal_checkpoints_append_only")
        connection.execute(
            "UPDATE seal_checkpoints SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 1)"
        )
    why = stopped(Sealer(database_url, signing_in(tmp_path), interval_s=0.05))
    assert "what is stored of the tree is not what was signed" in why


def test_a_missing_event_is_not_sealed(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 5)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE log DISABLE TRIGGER log_append_only")
        connection.execute("DELETE FROM log WHERE position = 2")
    why = stopped(Sealer(database_url, signing_in(tmp_path), interval_s=0.05))
    assert "the event at position 2 is missing" in why
    assert sealed_checkpoints(database_url) == []


@pytest.mark.parametrize("removed", ["number > 1", "number > 0"], ids=["the newest", "all"])
@pytest.mark.parametrize("has_news", [False, True], ids=["at rest", "sealing on"])
def test_a_sealer_that_sees_checkpoints_vanish_stops_and_says_so(
    database_url: str, tmp_path: Path, removed: str, has_news: bool
) -> None:
    """To begin anew would seal whatever was changed meanwhile of what they had covered."""
    sealer = Sealer(database_url, signing_in(tmp_path), interval_s=0.02)
    sealer.start()
    for size in (3, 6):
        fill(database_url, 3)
        wait_until(partial(is_sealed, database_url, size))
    run(database_url, f"DELETE FROM seal_checkpoints WHERE {removed}")
    if has_news:
        fill(database_url, 3)
    wait_until(lambda: sealer.trouble)
    left = sealed_checkpoints(database_url)
    asyncio.run(sealer.stop())
    assert "checkpoint 2 of 6 events was there" in str(sealer.trouble)
    assert "somebody has removed checkpoints, or put the database back" in str(sealer.trouble)
    assert len(left) == (1 if removed == "number > 1" else 0)


def test_no_new_key_is_made_where_an_old_one_is_listed(database_url: str, tmp_path: Path) -> None:
    """Else who removes all checkpoints, and the key, is signed for as if nothing had ever been sealed."""
    fill(database_url, 3)
    seal(database_url, tmp_path)
    run(database_url, "DELETE FROM seal_checkpoints", "DELETE FROM seal_tiles")
    (tmp_path / "keys" / "signing.key").unlink()
    why = stopped(Sealer(database_url, signing_in(tmp_path), interval_s=0.05))
    assert why == "The signing key cannot be used; the log says why."
    assert not (tmp_path / "keys" / "signing.key").exists()
    settings = Settings(_env_file=None, database_url=database_url, keys=tmp_path / "keys")
    with pytest.raises(SettingsError, match="rotate-key"):
        check_signing_key(settings, database_url)
    rotate(database_url, signing_in(tmp_path))
    seal(database_url, tmp_path)
    assert len(signing_in(tmp_path).verifiers()) == 2


def test_a_sealer_finds_the_database_again(database_url: str, tmp_path: Path) -> None:
    sealer = Sealer(database_url, signing_in(tmp_path), interval_s=0.02)
    sealer.start()
    fill(database_url, 3)
    wait_until(lambda: newest_size(database_url) == 3)
    cut(database_url)
    fill(database_url, 3)
    wait_until(lambda: newest_size(database_url) == 6)
    asyncio.run(sealer.stop())


def cut(url: str) -> None:
    with psycopg.connect(url) as connection:
        cuts = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'minutebook seal' AND datname = current_database()"
        ).fetchall()
    assert len(cuts) == 1
    time.sleep(0.01)
