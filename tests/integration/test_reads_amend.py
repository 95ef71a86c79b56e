"""Renaming, archiving and reopening: turns like any other, recorded, idempotent, one at a time."""

import asyncio
from typing import Any

import psycopg
import pytest

from tests.reading import NAMED, happen, reader, standing_still
from tests.serving import Refused, frames_of, serving_reads

PATH = "/conversations/c1"


def recorded(url: str) -> list[str]:
    """Return what was recorded of the conversation after it was started."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT type FROM log WHERE stream = 'conversation-c1' ORDER BY position")
        return [type_.partition(".")[2] for (type_,) in rows][1:]


async def test_a_conversation_is_renamed_archived_and_reopened(database_url: str) -> None:
    await happen(database_url, "local", "c1")
    async with serving_reads(database_url) as server:
        local = reader(server)
        renamed = await local.patch("c1", {"title": "Ours"})
        assert renamed["conversation"]["title"] == "Ours"
        assert renamed["position"] >= renamed["conversation"]["last_position"] == 3
        assert (await local.patch("c1", {"archived": True}))["conversation"]["state"] == "archived"
        with pytest.raises(Refused) as refusal:
            await server.client.say("hello", conversation_id="c1")
        assert refusal.value.code == "conversation_archived"
        both = (await local.patch("c1", {"archived": False, "title": "Again"}))["conversation"]
        assert (both["state"], both["title"]) == ("idle", "Again")
        assert recorded(database_url) == ["renamed", "archived", "reopened", "renamed"]
        assert (await server.client.say("hello", conversation_id="c1"))[-1].type == "turn.committed"


async def test_what_is_so_already_records_nothing(database_url: str) -> None:
    await happen(database_url, "local", "c1")
    async with serving_reads(database_url) as server:
        local = reader(server)
        for body in ({"title": "Ours"}, {"archived": True}, {"archived": False}):
            first = await local.patch("c1", body)
            assert (await local.patch("c1", body))["conversation"] == first["conversation"]
        assert recorded(database_url) == ["renamed", "archived", "reopened"]


async def test_the_same_key_is_the_same_turn(database_url: str) -> None:
    await happen(database_url, "local", "c1")
    async with serving_reads(database_url) as server:
        local = reader(server)
        first = await local.patch("c1", {"title": "One"}, key="t-1")
        await local.patch("c1", {"title": "Two"}, key="t-2")
        again = await local.patch("c1", {"title": "One"}, key="t-1")
        assert first["turn_id"] == again["turn_id"] == "t-1"
        assert again["conversation"]["title"] == "Two"  # as it is now: nothing was done again
        refusal = await local.patch("c1", {"title": "Three"}, status=409, key="t-1")
        assert refusal["code"] == "turn_id_reused"
        frames = await server.client.read_turn("t-1")
        assert [frame.type for frame in frames[-2:]] == ["conversation.renamed", "turn.committed"]
        assert recorded(database_url) == ["renamed", "renamed"]


async def test_nothing_is_amended_while_a_turn_runs(database_url: str) -> None:
    async with serving_reads(database_url, demo_delay_s=0.05) as server:
        asked = {"conversation_id": "c1", "message": {"type": "user_message", "content": "slow 10"}}
        async with server.client.stream(asked) as response:
            frames = frames_of(response)
            started = await anext(frames)
            refusal = await reader(server).patch("c1", {"title": "Now"}, status=409)
            assert refusal["code"] == "turn_in_progress"
            assert refusal["turn_id"] == started.data["turn_id"]
            await server.client.http.post(f"/v1/turns/{refusal['turn_id']}/cancel")
            assert [frame async for frame in frames][-1].type == "turn.committed"
        await reader(server).patch("c1", {"title": "Now"})
        assert recorded(database_url)[-1] == "renamed"


async def test_of_many_amendments_at_once_each_is_stored_or_refused(database_url: str) -> None:
    await happen(database_url, "local", "c1")
    async with serving_reads(database_url) as server:

        async def rename(number: int) -> int:
            answer = await server.client.http.patch(f"/v1{PATH}", json={"title": f"title {number}"})
            assert answer.status_code == 200 or answer.json()["code"] == "turn_in_progress"
            return answer.status_code

        codes = await asyncio.gather(*(rename(number) for number in range(12)))
        assert codes.count(200) == len(recorded(database_url)) >= 1


async def test_archiving_a_plan_in_execution_closes_what_is_open_and_brings_its_agent_back(
    database_url: str,
) -> None:
    async with serving_reads(database_url) as server:
        message = {
            "type": "user_message",
            "content": "plan write a.txt and write b.txt",
            "agent": "architect",
        }
        frames = await server.client.send(message, conversation_id="c1")
        plan = frames[-1].data["waiting_for"]["plan"]
        decision = {"type": "plan_decision", **plan, "decision": "approve"}
        end = (await server.client.send(decision, conversation_id="c1"))[-1].data
        assert end["state"] == "plan_in_execution"
        archived = (await reader(server).patch("c1", {"archived": True}))["conversation"]
        assert archived["state"] == "archived"
        assert archived["waiting_for"] == {"calls": [], "decisions": [], "plan": None}
        assert archived["agent"] == "architect"
        assert recorded(database_url)[-3:] == ["tool_call_closed", "plan_cancelled", "archived"]


async def test_where_the_list_is_late_the_answer_says_where_it_is_stored(database_url: str) -> None:
    await happen(database_url, "local", "c1")
    async with serving_reads(database_url, read_wait_s=0.2) as server:
        local = reader(server)
        await local.get(PATH, min_position=2)
        with standing_still(database_url, "conversation_list"):
            late = await local.patch("c1", {"title": "Ours"}, status=202)
        assert (late["conversation"], late["position"]) == (None, 3)
        assert (await local.get(PATH, min_position=3))["conversation"]["title"] == "Ours"


async def test_an_amendment_that_records_nothing_is_not_answered_from_before_it_was_so(
    database_url: str,
) -> None:
    await happen(database_url, "local", "c1")
    async with serving_reads(database_url, read_wait_s=0.2) as server:
        local = reader(server)
        await local.get(PATH, min_position=2)
        with standing_still(database_url, "conversation_list"):
            await local.patch("c1", {"title": "Ours"}, status=202)
            again = await local.patch("c1", {"title": "Ours"}, status=202)
        assert (again["conversation"], again["position"]) == (None, 3)
        assert (await local.patch("c1", {"title": "Ours"}))["conversation"]["title"] == "Ours"
        assert recorded(database_url) == ["renamed"]


async def test_nobody_amends_what_is_not_theirs(database_url: str) -> None:
    await happen(database_url, "ada", "c1")
    async with serving_reads(database_url, **NAMED) as server:
        for name in ("c1", "nobodys", ".x"):
            refusal = await reader(server, "bob").patch(name, {"title": "Mine"}, status=404, key="t-1")
            assert refusal["code"] == "conversation_not_found"
        assert recorded(database_url) == []
        await reader(server).patch("c1", {"title": "Mine"}, key="t-1")  # the refused turn left no trace


@pytest.mark.parametrize(
    "body",
    [
        {}, [], "x", {"title": None}, {"title": ""}, {"title": "x" * 201}, {"title": 1},
        {"archived": "yes"}, {"title": "a\0b"}, {"owner": "me"}, {"type": "amend", "title": "x"},
    ],
)  # fmt: skip
async def test_what_cannot_be_amended_is_refused(database_url: str, body: Any) -> None:
    async with serving_reads(database_url) as server:
        refusal = await reader(server).patch("c1", body, status=422)
        assert refusal["code"] == "invalid_message"


async def test_an_amendment_is_none_of_the_five_messages(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        with pytest.raises(Refused) as refusal:
            await server.client.send({"type": "amend", "title": "x"}, conversation_id="c1")
        assert refusal.value.code == "invalid_message"
