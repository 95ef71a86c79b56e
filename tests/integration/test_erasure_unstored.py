"""What somebody asked for and never got is erased, too: of turns that failed, or that nobody ended."""

from typing import Any

import pytest

from tests.asking import query
from tests.integration.test_erasure import WORD, erase, is_running
from tests.serving import Client, Refused, serving

ROW = "SELECT payload, payload_hash, outcome FROM turns WHERE kind <> 'erase' AND conversation = 'gone'"


async def refused(client: Client, turn: str, content: str) -> tuple[int, Any]:
    """Send a turn once more, and return how it is refused."""
    with pytest.raises(Refused) as error:
        await client.say(content, conversation_id="gone", turn_id=turn)
    return error.value.status, error.value.code


async def test_no_digest_of_what_was_erased_stays_and_a_repeat_says_that_it_was(database_url: str) -> None:
    """A digest without salt tells whoever can guess a message that it was this one."""
    async with serving(database_url) as server:
        await server.client.say(f"hello {WORD}", conversation_id="gone", turn_id="t1")
        await server.client.say(f"fail {WORD}", conversation_id="gone", turn_id="t2")
        await erase(server.client, "gone")
        assert {(row[0], row[1], row[2]) for row in query(database_url, ROW)} == {(None, b"", None)}
        for turn, content in (("t1", f"hello {WORD}"), ("t2", f"fail {WORD}"), ("t1", "something else")):
            assert await refused(server.client, turn, content) == (410, "conversation_erased")
        assert (await server.client.http.post("/v1/turns/t2/retry")).status_code == 410


async def test_turns_of_which_nothing_was_stored_are_forgotten(database_url: str) -> None:
    async with serving(database_url) as server:
        for turn in ("t1", "t2"):
            await server.client.say(f"fail {WORD}", conversation_id="gone", turn_id=turn)
        receipt = await erase(server.client, "gone", reason="asked for")
        assert (receipt["position"], receipt["erased"]["turns"], receipt["erased"]["events"]) == (0, 2, 0)
        assert (receipt["actor"], receipt["reason"]) == ("user:local", "asked for")
        assert receipt["scrubbed_at"] == receipt["erased_at"]
        assert await erase(server.client, "gone") == receipt  # again: nothing more happens
        assert query(database_url, ROW) == [(None, b"", None)] * 2
        assert query(database_url, "SELECT count(*) FROM log") == [(0,)]
        assert await refused(server.client, "t1", f"fail {WORD}") == (410, "conversation_erased")
        assert (await server.client.http.post("/v1/turns/t1/retry")).status_code == 410
        told = (await server.client.http.get("/v1/audit/turns?state=failed")).json()
        assert {turn["turn_id"] for turn in told["turns"]} == {"t1", "t2"}
        # The id is as free as it was, and what is said there now is another conversation's.
        assert (await server.client.say("hello", conversation_id="gone"))[-1].type == "turn.committed"
        assert (await erase(server.client, "gone"))["erased"]["person_messages"] == 1


async def test_nobody_forgets_the_turns_of_somebody_else(database_url: str) -> None:
    async with serving(database_url, identity_header="X-Subject", scopes_header="X-Scopes") as server:
        ada = {"X-Subject": "ada", "X-Scopes": "chat"}
        bob = {"X-Subject": "bob", "X-Scopes": "chat"}
        admin = {"X-Subject": "root", "X-Scopes": "operate"}
        post, where = server.client.http.post, "/v1/conversations/gone/erase"
        await server.client.say(f"fail {WORD}", conversation_id="gone", turn_id="t1", headers=ada)
        assert (await post(where, headers=bob)).status_code == 404
        assert query(database_url, ROW)[0][0] is not None
        await server.client.say(f"fail {WORD}", conversation_id="gone", turn_id="t2", headers=bob)
        assert (await post(where, headers=ada)).json()["erased"]["turns"] == 1
        assert sorted(row[0] is None for row in query(database_url, ROW)) == [False, True]
        assert (await post(where, headers=admin)).json()["actor"] == "user:root"
        assert query(database_url, ROW) == [(None, b"", None)] * 2


async def test_a_first_turn_that_still_runs_is_not_forgotten(database_url: str) -> None:
    said = {"type": "user_message", "content": "slow 99"}
    body = {"conversation_id": "gone", "turn_id": "t1", "message": said}
    async with serving(database_url, demo_delay_s=0.05) as server, server.client.stream(body):
        await is_running(database_url, "t1")
        answer = await erase(server.client, "gone", 409)
        assert (answer["code"], answer["turn_id"]) == ("turn_in_progress", "t1")
        await server.client.http.post("/v1/turns/t1/cancel")
