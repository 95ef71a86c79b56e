"""What running turns say, kept for other processes: found by what is new, and whole by whose it is."""

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from application.frames import DELTA, frame
from application.ports import TurnRow
from application.sharing import Chunk
from infrastructure.postgres.chunks import PostgresChunks
from infrastructure.postgres.pool import Pool
from infrastructure.vault import DataKey
from tests.integration.turn_helpers import execute
from tests.unit.elsewhere import FIRST, SECOND

KEY = DataKey(os.urandom(32))


Make = Callable[..., PostgresChunks]


@pytest.fixture
async def node(pool: Pool) -> AsyncIterator[Make]:
    """Makes a node's side of the chunks, by its name and with its key."""
    made: list[PostgresChunks] = []

    def make(name: str, key: DataKey = KEY) -> PostgresChunks:
        made.append(PostgresChunks(str(pool.conninfo), pool, name, key))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def said(row: TurnRow, seq: int = 1) -> Chunk:
    return Chunk(
        row.turn_id, row.attempt, row.conversation_id, [frame(row, seq, DELTA, {"text": f"word {seq}"})]
    )


async def everything(chunks: PostgresChunks) -> list[Chunk]:
    return await chunks.of([FIRST.turn_id], [FIRST.conversation_id])


async def test_what_is_kept_after_a_mark_is_read_once_where_it_is_wanted(node: Make) -> None:
    here, there = node("here"), node("there")
    other = replace(FIRST, turn_id="t-2", conversation_id="c-2")
    await there.keep([said(FIRST, 1)], [])
    mark = await here.mark()
    for seq in (2, 3):
        await there.keep([said(FIRST, seq), said(other, seq)], [])
        await here.keep([said(FIRST, 9)], [])  # one's own is not asked for
    chunks, mark = await here.read(
        replace(mark, near=frozenset({mark.newest})), lambda turn, _: turn == "t-1"
    )
    assert [chunk.frames[0].seq for chunk in chunks] == [2, 3]
    assert await here.read(mark, lambda *_: True) == ([], mark)
    assert [chunk.frames[0].seq for chunk in await everything(here)] == [1, 2, 3]


async def test_what_becomes_visible_late_is_read_although_newer_chunks_were_read_before(node: Make) -> None:
    here, there, slow = node("here"), node("there"), node("slow")
    mark = await here.mark()
    connection = await slow._connected()
    async with connection.transaction():
        await slow.keep([said(FIRST, 1)], [])
        await there.keep([said(FIRST, 2)], [])
        first, mark = await here.read(mark, lambda *_: True)
    late, _ = await here.read(mark, lambda *_: True)
    assert [chunk.frames[0].seq for chunk in (*first, *late)] == [2, 1]


async def test_reading_goes_on_where_a_crash_has_emptied_the_table(pool: Pool, node: Make) -> None:
    here, there = node("here"), node("there")
    await execute(pool, "ALTER TABLE chunks ALTER id RESTART 100000")
    await there.keep([said(FIRST)], [])
    mark = await here.mark()
    await execute(pool, "TRUNCATE chunks RESTART IDENTITY")  # as PostgreSQL does with what is not logged
    await there.keep([said(FIRST, 2)], [])
    chunks, _ = await here.read(mark, lambda *_: True)
    assert [chunk.frames[0].seq for chunk in chunks] == [2]


async def test_who_clears_an_attempt_leaves_what_another_node_says_in_the_next_one(node: Make) -> None:
    here, first, second = node("here"), node("first"), node("second")
    await first.keep([said(FIRST)], [])
    await second.keep([said(SECOND)], [])
    await first.keep([], [FIRST.turn_id])
    assert [chunk.attempt for chunk in await everything(here)] == [2]
    await second.keep([], [FIRST.turn_id])
    assert await everything(here) == []


async def test_a_chunk_that_cannot_be_read_holds_back_none_of_the_others(
    node: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there, stranger = node("here"), node("there"), node("x", DataKey(bytes(32)))
    mark = await here.mark()
    for kept_by, seq in ((there, 1), (stranger, 2), (there, 3)):
        await kept_by.keep([said(FIRST, seq)], [])
    chunks, _ = await here.read(mark, lambda *_: True)
    assert [chunk.frames[0].seq for chunk in chunks] == [1, 3]
    assert "chunk_unreadable" in capsys.readouterr().out
