"""A disk that is full at the commit: nothing is half-written, and it goes on when there is room again."""

import asyncio
import os
import resource
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from application.language_model import Finished, ModelChunk, ModelRequest, TextDelta
from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.asking import query
from tests.integration.test_faults import assert_failed, assert_stored_once, retry_when_free
from tests.killing import judge_positions, judge_turns, read_turns
from tests.replaying import LogRow, read_log
from tests.serving import Client, Serving, SseFrame, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

MB = 1024 * 1024
ANSWER_BYTES = 3 * MB
DISK_MB = 160
SETTINGS = {"min_wal_size": "32MB", "max_wal_size": "256MB", "shared_buffers": "64MB", "fsync": "off"}


class LongWinded:
    """Says three megabytes that no compression makes smaller."""

    def __init__(self) -> None:
        self._random = Random(5)

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        for _ in range(30):
            yield TextDelta(self._random.randbytes(ANSWER_BYTES // 60).hex())
            await asyncio.sleep(0.001)
        yield Finished("stop")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small file system of its own on the folder, for the block."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
    except OSError:
        pytest.skip("there is no mount here: a full disk is tried with a limit of files alone")
    if done.returncode:
        pytest.skip("nothing may be mounted here: a full disk is tried with a limit of files alone")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Write a file that leaves so many bytes free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - leave)
    return ballast


async def talk_until_full(client: Client, conversation_id: str) -> tuple[str, list[SseFrame]]:
    """Say something again and again, until a turn fails."""
    for _ in range(30):
        turn_id = str(uuid4())
        frames = await client.say("talk", conversation_id=conversation_id, turn_id=turn_id)
        if frames[-1].type == "turn.failed":
            return turn_id, frames
    raise AssertionError("the disk never was full")


def whole(url: str, told: str = "") -> list[LogRow]:
    """Read the log, which has no gap and nothing of a turn that is not committed."""
    log = read_log(url)
    judge_positions(log)
    by_turn: dict[str, list[LogRow]] = {}
    for row in log:
        by_turn.setdefault(row.turn, []).append(row)
    judge_turns(read_turns(url), by_turn)
    assert told not in by_turn
    return log


async def goes_on(server: Serving, url: str, turn_id: str) -> None:
    """The turn that failed can be retried, its conversation goes on, and nothing is there twice."""
    frames = await retry_when_free(server.client, turn_id)
    await assert_stored_once(url, turn_id, frames)
    again = await server.client.say("talk", conversation_id="c")
    assert again[-1].type == "turn.committed"
    await asyncio.to_thread(whole, url)


def postgres_log(postgres: EmbeddedPostgres) -> str:
    """Return what the database server has said so far."""
    return (postgres.folder / "postgres.log").read_text()


async def fails_and_goes_on(postgres: EmbeddedPostgres, url: str, disk: Path, leave: int, said: str) -> None:
    """Talk until the disk is full, make room, and go on."""
    async with serving(url, answering=LongWinded(), lease_s=1, projections=False) as server:
        await server.client.say("talk", conversation_id="c")
        ballast = await asyncio.to_thread(fill, disk, leave)
        turn_id, frames = await talk_until_full(server.client, "c")
        assert_failed(frames, "store_unavailable")
        assert said in postgres_log(postgres)
        ballast.unlink()
        await asyncio.to_thread(postgres.start)  # without room for its log the server has stopped
        await asyncio.to_thread(whole, url, turn_id)
        await goes_on(server, url, turn_id)


@pytest.mark.may_block("a database server is started, and texts of megabytes are compared")
async def test_a_full_disk_fails_the_turn_and_it_goes_on_when_there_is_room(server_folder: Path) -> None:
    with small_disk(server_folder) as disk, EmbeddedPostgres(disk / "data", settings=SETTINGS) as postgres:
        url = await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(schema.migrate, url)
        # Its log begins a new segment, which has room for what the rows have not.
        await asyncio.to_thread(query, url, "SELECT pg_switch_wal()")
        await fails_and_goes_on(postgres, url, disk, 2 * MB, "could not extend file")


def move_log(postgres: EmbeddedPostgres, disk: Path) -> None:
    """Let the write-ahead log lie on a disk of its own."""
    postgres.stop()
    log = postgres.folder / "pg" / "pg_wal"
    shutil.copytree(log, disk / "pg_wal")
    owner = log.stat()
    for path in (disk, *disk.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    shutil.rmtree(log)
    log.symlink_to(disk / "pg_wal")
    postgres.start()


@pytest.mark.may_block("a database server is started, and texts of megabytes are compared")
async def test_a_write_ahead_log_without_room_stops_the_database_and_nothing_is_half_written(
    server_folder: Path,
) -> None:
    with (
        small_disk(server_folder) as disk,
        EmbeddedPostgres(server_folder / "data", settings=SETTINGS) as postgres,
    ):
        url = await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(schema.migrate, url)
        await asyncio.to_thread(move_log, postgres, disk)
        await fails_and_goes_on(postgres, url, disk, 0, "PANIC")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file of the processes that are started in the block grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start_with_small_files(postgres: EmbeddedPostgres) -> str:
    with small_files(16 * MB):  # a segment of the write-ahead log fits, the texts do not
        return postgres.start()


@pytest.mark.may_block("a database server is started, and texts of megabytes are compared")
async def test_a_file_that_may_not_grow_fails_the_turn_and_it_goes_on_when_it_may(
    server_folder: Path,
) -> None:
    postgres = EmbeddedPostgres(server_folder / "data", settings=SETTINGS)
    url = await asyncio.to_thread(start_with_small_files, postgres)
    with postgres:
        await asyncio.to_thread(schema.migrate, url)
        async with serving(url, answering=LongWinded(), lease_s=1, projections=False) as server:
            turn_id, frames = await talk_until_full(server.client, "c")
            assert_failed(frames, "store_unavailable")
            await asyncio.to_thread(whole, url, turn_id)
            assert "File too large" in postgres_log(postgres)
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(postgres.start)
            await goes_on(server, url, turn_id)
