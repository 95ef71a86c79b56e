"""An event that cannot be read says so where it stands, and hides none of the others."""

import asyncio

import httpx
import psycopg

from tests.integration.test_feeds import feed, take
from tests.serving import Serving, serving
from tests.tampering import run

SAID = "conversation.assistant_message_sent"
UNREADABLE = {"unreadable": True}
# As another application would keep its events in the same log.
FOREIGN = """
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT max(position) + 1, max(recorded_at), 1, 'dog-1', 'dogs:Dog.Registered', '', '', '', {data}
      FROM log"""
CHANGED = "UPDATE log SET data = set_byte(data, 20, get_byte(data, 20) # 1) WHERE position = 3"


def add_foreign(database_url: str, data: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FOREIGN.format(data=data).encode())


async def answer(server: Serving, address: str) -> httpx.Response:
    response = await server.client.http.get(address)
    assert response.status_code == 200, response.text
    return response


async def test_a_feed_goes_on_behind_what_it_cannot_read(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.client.say("help", conversation_id="c")
        async with feed(server, "/v1/feed") as items:
            add_foreign(database_url, r"'\x00ff'")
            said = asyncio.create_task(server.client.say("help", conversation_id="d"))
            live = await take(items, SAID)
            await said
        async with feed(server, "/v1/feed", "5") as items:
            again = await take(items, SAID)
    assert [item.data["data"] for item in live if item.type == "dogs:Dog.Registered"] == [UNREADABLE]
    assert again == live


async def test_the_audit_shows_what_stands_beside_an_event_that_was_changed(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.client.say("help", conversation_id="c")
        whole = (await answer(server, "/v1/audit/events")).json()["events"]
        run(database_url, CHANGED)
        add_foreign(database_url, '\'{"name": "Fido"}\'')
        found = (await answer(server, "/v1/audit/events")).json()["events"]
        shown = (await answer(server, "/v1/audit/events/3")).json()
        searched = (await answer(server, "/v1/audit/events?text=orchestrator")).json()["events"]
    assert [event["data"] for event in found if event["position"] in (3, 6)] == [UNREADABLE, UNREADABLE]
    assert [event for event in found if event["position"] not in (3, 6)] == [*whole[:2], *whole[3:]]
    assert shown["event"]["data"] == UNREADABLE
    assert [event["position"] for event in searched] == [2, 4, 5]
