"""A conversation is watched from its first turn on, by whose turn that is, and by nobody else."""

import asyncio
from collections.abc import AsyncIterator

from tests.integration.streams import Gate, in_turn, status_of, steered, until
from tests.integration.test_feeds import feed, take
from tests.openai_pieces import Piece, StreamError, Text
from tests.serving import SseFrame, serving


class Talker:
    """A model that says three words, each when it is told to."""

    def __init__(self) -> None:
        self.told = [asyncio.Event() for _ in range(3)]

    async def pieces(self) -> AsyncIterator[Piece]:
        for number, told in enumerate(self.told):
            await told.wait()
            yield Text(f"word{number} ")


async def test_the_first_turn_of_a_conversation_is_watched_while_it_runs_on_every_process(
    database_url: str,
) -> None:
    talker = Talker()
    async with serving(database_url) as there, steered(database_url, in_turn(talker.pieces())) as (here, _):
        said = asyncio.create_task(here.client.say("hello", conversation_id="c", turn_id="t"))
        await until(lambda: here.house.running.get("t"))
        talker.told[0].set()
        path = "/v1/conversations/c/feed"
        async with feed(here, path, "0") as own, feed(there, path, "0") as others:
            await until(lambda: here.house.live.has_readers and there.house.live.has_readers)
            talker.told[1].set()
            for items in (own, others):
                await until_heard(items, "word1 ")  # before anything is stored
            talker.told[2].set()
            stored = [frame.data["position"] for frame in await said if "position" in frame.data]
            for items in (own, others):
                seen = await take(items, "conversation.assistant_message_sent")
                ids = [int(item.id) for item in seen if item.id is not None]
                assert ids == stored[: len(ids)]


async def until_heard(items: AsyncIterator[SseFrame], word: str) -> None:
    async with asyncio.timeout(30):
        async for item in items:
            if item.type == "turn.delta" and word in item.data["text"]:
                return


async def test_a_first_turn_that_runs_is_found_by_whose_it_is_and_has_no_feed_for_anybody_else(
    database_url: str,
) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces()), identity_header="X-Subject") as (server, _):
        ann, bob = server.as_subject("ann"), server.as_subject("bob")
        said = asyncio.create_task(server.client.say("hello", conversation_id="c", headers=ann))
        async with asyncio.timeout(30):
            await gate.reached.wait()
        http = server.client.http
        found = (await http.get("/v1/conversations/c/turn", headers=ann)).json()["turn"]
        assert (found["state"], found["conversation_id"], found["kind"]) == ("running", "c", "user_message")
        for name in ("feed", "turn"):
            answer = await http.get(f"/v1/conversations/c/{name}", headers=bob)
            assert (answer.status_code, answer.json()["code"]) == (404, "conversation_not_found")
        gate.opened.set()
        await said
        assert (await http.get("/v1/conversations/c/turn", headers=ann)).json() == {"turn": None}


async def test_who_watched_a_first_turn_that_failed_hears_nothing_of_who_begins_then(
    database_url: str,
) -> None:
    gates = Gate(StreamError()), Gate()
    script = in_turn(*(gate.pieces() for gate in gates))
    async with steered(database_url, script, identity_header="X-Subject") as (server, _):
        ann, bob = server.as_subject("ann"), server.as_subject("bob")
        failing = asyncio.create_task(server.client.say("hello", conversation_id="c", headers=ann))
        async with asyncio.timeout(30):
            await gates[0].reached.wait()
        async with server.client.http.stream("GET", "/v1/conversations/c/feed", headers=ann) as watching:
            assert watching.status_code == 200
            await until(lambda: server.house.live.has_readers)
            gates[0].opened.set()
            assert (await failing)[-1].type == "turn.failed"
            gates[1].opened.set()
            await server.client.say("mine", conversation_id="c", headers=bob)
            async with asyncio.timeout(30):
                heard = (await watching.aread()).decode()
        assert "turn.failed" in heard
        assert "mine" not in heard
        assert "user:bob" not in heard
        again = await server.client.http.get("/v1/conversations/c/feed", headers=ann)
        assert again.status_code == 404


async def test_a_first_turn_tried_again_is_watched_on_the_same_feed(database_url: str) -> None:
    gate = Gate(StreamError())
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        failing = asyncio.create_task(server.client.say("hello", conversation_id="c", turn_id="t"))
        async with asyncio.timeout(30):
            await gate.reached.wait()
        async with feed(server, "/v1/conversations/c/feed") as items:
            await until(lambda: server.house.live.has_readers)
            gate.opened.set()
            await failing
            assert (await status_of(server, "t"))["state"] == "failed"
            await server.client.http.post("/v1/turns/t/retry")
            seen = await take(items, "conversation.assistant_message_sent")
            assert "".join(item.data["text"] for item in seen if item.type == "turn.delta") == "done"
            assert [item.id for item in seen if item.id is not None] == [str(n) for n in range(1, 6)]
