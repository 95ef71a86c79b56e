"""The frames of a running turn: whoever watches sees them all, in order, up to the one end."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from application.errors import InvalidCursorError
from application.frames import COMMITTED, DELTA, Frame, frame, seq_after
from application.ports import Limits, TurnRow
from application.stream import TurnStream

ROW = TurnRow(
    turn_id="t-1",
    conversation_id="c-1",
    subject="ada",
    kind="user_message",
    payload={},
    payload_hash="",
    state="running",
    attempt=1,
    node="here",
    accepted_at=datetime(2026, 1, 2, tzinfo=UTC),
)


def stream_of(number: int = 0, limits: Limits | None = None) -> TurnStream:
    """Return a stream that has said so many frames."""
    stream = TurnStream(ROW, limits or Limits())
    for n in range(number):
        stream.say(DELTA, text=f"word {n}")
    return stream


def end(stream: TurnStream) -> Frame:
    """End the stream with one stored frame and the terminal one."""
    first = stream.last_seq + 1
    stream.end([frame(ROW, first, "conversation.started", {}), frame(ROW, first + 1, COMMITTED, {})])
    return stream._frames[-1]


async def seqs_of(stream: TurnStream, after: int = 0) -> list[int]:
    """Watch a stream to its end."""
    return [one.seq async for batch in stream.watch(after) for one in batch]


@given(st.integers(0, 20), st.integers(0, 40))
async def test_a_cursor_anywhere_reads_the_rest_and_always_the_end(number: int, after: int) -> None:
    stream = stream_of(number)
    last = end(stream).seq
    assert last == number + 2
    assert await seqs_of(stream, after) == (list(range(after + 1, last + 1)) or [last])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20), st.integers(0, 10))
async def test_watchers_at_any_pace_see_every_frame_once_and_in_order(steps: Any, after: int) -> None:
    stream = stream_of()
    watchers = [asyncio.create_task(seqs_of(stream)), asyncio.create_task(seqs_of(stream, after))]
    for number, rest in steps:
        for _ in range(number):
            stream.say(DELTA, text="x")
        if rest:
            await asyncio.sleep(0)
    last = end(stream).seq
    late = await seqs_of(stream)
    whole, some = await asyncio.gather(*watchers)
    assert whole == late == list(range(1, last + 1))
    assert some == (list(range(after + 1, last + 1)) or [last])


async def test_nothing_comes_after_the_end() -> None:
    stream = stream_of(2)
    last = end(stream)
    stream.say(DELTA, text="too late")
    stream.end([frame(ROW, 99, COMMITTED, {})])
    assert stream.last_seq == last.seq
    assert await seqs_of(stream) == [1, 2, 3, 4]


@pytest.mark.parametrize("limits", [Limits(chunk_log_frames=10), Limits(chunk_log_bytes=3000)], ids=str)
async def test_a_long_answer_forgets_its_oldest_words_and_never_its_end(limits: Limits) -> None:
    stream = stream_of(1000, limits)
    assert len(stream._frames) <= 15
    last = end(stream).seq
    seen = await seqs_of(stream)
    assert seen[-2:] == [last - 1, last]
    assert seen == list(range(seen[0], last + 1))
    assert await seqs_of(stream, 500) == seen


async def test_a_watcher_who_falls_behind_goes_on_with_the_oldest_words_there_are() -> None:
    stream = stream_of(5, Limits(chunk_log_frames=10))
    watching = stream.watch()
    assert [one.seq for one in await anext(watching)] == [1, 2, 3, 4, 5]
    for _ in range(100):
        stream.say(DELTA, text="x")
    seen = [one.seq for one in await anext(watching)]
    assert seen == list(range(seen[0], 106))


async def test_a_watcher_who_leaves_is_forgotten() -> None:
    stream = stream_of(1)
    watching = stream.watch()
    await anext(watching)
    await watching.aclose()  # type: ignore[attr-defined]
    assert stream._waiting == set()


@pytest.mark.parametrize(
    ("cursor", "seq"),
    [
        (None, 0),
        ("", 0),
        ("2.0", 0),
        ("2.7", 7),
        ("1.7", 0),
        ("3.7", 0),
        ("02.07", 7),
        ("2.999999999999999999", 10**18 - 1),
    ],
)
def test_a_cursor_counts_in_its_own_attempt_only(cursor: str | None, seq: int) -> None:
    assert seq_after(cursor, 2) == seq


@given(st.text(max_size=12).filter(lambda text: text and not re.fullmatch(r"[0-9]+\.[0-9]+", text)))
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidCursorError, match="<attempt>"):
        seq_after(text, 1)
