"""What a turn says in one process is heard in another one: from the first word, by hint or by poll."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from infrastructure.postgres.chunks import CHUNKS_CHANNEL
from tests.integration.streams import in_turn, steered, until
from tests.integration.test_feed_hints import hints_heard, hush, kill
from tests.openai_pieces import Piece, Text
from tests.serving import Serving, SseFrame, frames_of, serving


class Dictated:
    """A model that says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self._words: asyncio.Queue[str] = asyncio.Queue()

    def say(self, word: str) -> None:
        self._words.put_nowait(word)

    async def pieces(self) -> AsyncIterator[Piece]:
        while (word := await self._words.get()) != "end":
            yield Text(word)


class Heard:
    """What one watcher has heard of a turn so far."""

    def __init__(self) -> None:
        self.frames: list[SseFrame] = []

    @property
    def words(self) -> str:
        return "".join(frame.data["text"] for frame in self.frames if frame.type == "turn.delta")

    async def follow(self, server: Serving, path: str) -> None:
        async with server.client.http.stream("GET", path) as response:
            assert response.status_code == 200, await response.aread()
            async for frame in frames_of(response):
                self.frames.append(frame)

    async def hears(self, words: str) -> None:
        await until(lambda: self.words == words)


@asynccontextmanager
async def heard(server: Serving, path: str) -> AsyncIterator[Heard]:
    """Watch something for the length of the block."""
    watcher = Heard()
    watching = asyncio.create_task(watcher.follow(server, path))
    try:
        yield watcher
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def running(here: Serving, conversation_id: str, turn_id: str) -> AsyncIterator[None]:
    """A turn that has begun; it is stopped in the end."""
    said = asyncio.create_task(here.client.say("speak", conversation_id=conversation_id, turn_id=turn_id))
    try:
        await until(lambda: here.house.running.get(turn_id))
        yield
    finally:
        await here.client.http.post(f"/v1/turns/{turn_id}/cancel")
        await said


@asynccontextmanager
async def two_processes(database_url: str, *models: Dictated) -> AsyncIterator[tuple[Serving, Serving]]:
    """Two houses; the conversations c0, c1, … are stored, and the models speak in what comes next."""
    hello = [[Text("hello")] for _ in models]
    async with AsyncExitStack() as stack:
        script = in_turn(*hello, *(model.pieces() for model in models))
        here, _ = await stack.enter_async_context(steered(database_url, script))
        for number in range(len(models)):
            await here.client.say("hello", conversation_id=f"c{number}")
        yield here, await stack.enter_async_context(serving(database_url))


async def test_a_turn_is_heard_from_its_first_word_although_a_feed_was_opened_there_first(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infrastructure.postgres.chunks.OVERLAP", 0)  # as if thousands spoke meanwhile
    one, other = Dictated(), Dictated()
    async with (
        two_processes(database_url, one, other) as (here, there),
        running(here, "c0", "t0"),
        heard(here, "/v1/turns/t0/stream") as own,
    ):
        one.say("one ")
        await own.hears("one ")
        async with running(here, "c1", "t1"), heard(there, "/v1/turns/t1/stream") as meanwhile:
            other.say("meanwhile ")
            await meanwhile.hears("meanwhile ")
            async with heard(there, "/v1/conversations/c0/feed") as feed:
                one.say("two ")
                await feed.hears("one two ")
                async with heard(there, "/v1/turns/t0/stream") as attached:
                    one.say("three ")
                    await attached.hears("one two three ")
                    await feed.hears("one two three ")
                    assert [frame.data["seq"] for frame in attached.frames] == [1, 2, 3, 4]


async def test_the_hint_alone_brings_words_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("application.sharing.MIRROR_POLL_S", 60)
    model = Dictated()
    async with (
        two_processes(database_url, model) as (here, there),
        running(here, "c0", "t"),
        heard(there, "/v1/turns/t/stream") as attached,
        heard(there, "/v1/conversations/c0/feed") as feed,
    ):
        await until(lambda: "c0" in there.house.live.conversations)
        for number in range(1, 4):
            model.say("word ")
            await attached.hears("word " * number)
            await feed.hears("word " * number)


async def test_without_hints_words_come_with_the_next_poll(database_url: str) -> None:
    await hush(database_url)
    hints: list[str] = []
    listening = asyncio.create_task(hints_heard(database_url, hints, CHUNKS_CHANNEL))
    model = Dictated()
    async with (
        two_processes(database_url, model) as (here, there),
        running(here, "c0", "t"),
        heard(there, "/v1/turns/t/stream") as attached,
    ):
        for number in range(1, 4):
            model.say("word ")
            await attached.hears("word " * number)
    listening.cancel()
    assert hints == []


async def test_words_come_although_the_connection_that_shares_them_is_cut(database_url: str) -> None:
    model = Dictated()
    async with (
        two_processes(database_url, model) as (here, there),
        running(here, "c0", "t"),
        heard(there, "/v1/turns/t/stream") as attached,
    ):
        for number in range(1, 4):
            model.say("word ")
            await attached.hears("word " * number)
            assert await kill(database_url, "minutebook chunks") == 1
