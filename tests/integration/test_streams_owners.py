"""Whose conversation it is: to anybody else it does not exist."""

import asyncio
from typing import Any

import pytest

from tests.integration.streams import (
    Gate,
    ask,
    calls_of,
    data_of,
    in_turn,
    log_of,
    refused,
    result,
    steered,
    turns_of,
    types,
)
from tests.openai_pieces import Cut
from tests.serving import serving

HEADER = {"identity_header": "X-Subject"}
ADA: dict[str, Any] = {"headers": {"X-Subject": "ada"}}
EVE: dict[str, Any] = {"headers": {"X-Subject": "eve"}}
DOORS = [("GET", ""), ("GET", "/stream"), ("POST", "/cancel"), ("POST", "/retry")]


def messages(call_id: str, plan_id: str = "p") -> list[dict[str, Any]]:
    """Return each of the five messages."""
    return [
        {"type": "user_message", "content": "let me in"},
        {"type": "tool_result", "call_id": call_id, "result": 0},
        {"type": "switch_agent", "agent": "ask"},
        {"type": "hitl_decision", "call_id": call_id, "decision": "approve"},
        {"type": "plan_decision", "plan_id": plan_id, "plan_version": 1, "decision": "approve"},
    ]


async def test_no_message_reaches_a_foreign_conversation(database_url: str) -> None:
    async with serving(database_url, **HEADER) as server:
        frames = await ask(server.client, "write a.txt", "coder", conversation_id="c-1", turn_id="t-1", **ADA)
        before = await log_of(database_url)
        for message in messages(calls_of(frames)[0]):
            problem = await refused(
                server.client, message, "conversation_not_found", conversation_id="c-1", **EVE
            )
            assert problem["status"] == 404
            assert "turn_id" not in problem
        assert await log_of(database_url) == before
        assert await turns_of(database_url) == [("t-1", "committed")]


async def test_a_foreign_running_turn_is_never_named(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces()), **HEADER) as (server, _):
        say = server.client.say("hi", conversation_id="c-1", turn_id="t-1", **ADA)
        stream = asyncio.create_task(say)
        await gate.reached.wait()  # nothing of the conversation is in the log yet
        for message in messages("call"):
            problem = await refused(
                server.client, message, "conversation_not_found", conversation_id="c-1", **EVE
            )
            assert "t-1" not in str(problem)
        gate.opened.set()
        assert types(await stream)[-1] == "assistant_message_sent"


@pytest.mark.parametrize("state", ["running", "committed", "failed"])
async def test_a_foreign_turn_is_not_there_at_any_door(database_url: str, state: str) -> None:
    gate = Gate(Cut()) if state == "failed" else Gate()
    async with steered(database_url, in_turn(gate.pieces()), **HEADER) as (server, _):
        content = {"type": "user_message", "content": "hi"}
        mine = server.client.send(content, conversation_id="c-1", turn_id="t-1", **ADA)
        stream = asyncio.create_task(mine)
        await gate.reached.wait()
        if state != "running":
            gate.opened.set()
            await stream
        for method, path in DOORS:
            response = await server.client.http.request(method, f"/v1/turns/t-1{path}", **EVE)
            assert (response.status_code, response.json()["code"]) == (404, "turn_not_found")
        gate.opened.set()
        assert (await stream)[-1].is_final
        own = await server.client.http.get("/v1/turns/t-1", **ADA)
        assert own.json()["state"] == ("failed" if state == "failed" else "committed")


async def test_a_foreign_turn_id_is_taken_and_says_nothing_of_its_owner(database_url: str) -> None:
    async with serving(database_url, **HEADER) as server:
        await server.client.say("secret words", conversation_id="secret", turn_id="t-1", **ADA)
        for message in ("secret words", "other words"):
            said = {"type": "user_message", "content": message}
            problem = await refused(server.client, said, "turn_id_reused", turn_id="t-1", **EVE)
            assert "secret" not in str(problem)
            assert "ada" not in str(problem)


async def test_a_request_that_does_not_say_who_asks_is_401(database_url: str) -> None:
    body = {"message": {"type": "user_message", "content": "hi"}}
    subjects = ["", "a b", "ä", "x" * 300, "-a", "a\tb", "a,b"]
    async with serving(database_url, **HEADER) as server:
        http = server.client.http
        for headers in ({}, *({b"X-Subject": subject.encode()} for subject in subjects)):
            told = [await http.post("/v1/messages/stream", json=body, headers=headers)]
            for method, path in DOORS:
                told.append(await http.request(method, f"/v1/turns/t-1{path}", headers=headers))
            for response in told:
                assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
                assert response.headers["content-type"] == "application/problem+json"
        assert await turns_of(database_url) == []


async def test_the_actor_of_what_a_person_does_is_that_person(database_url: str) -> None:
    async with serving(database_url, **HEADER) as server:
        frames = await server.client.say("read a.txt", conversation_id="c-1", **ADA)
        frames += await result(server.client, "c-1", calls_of(frames)[0], 1, **ADA)
    by_people = {f.data["actor"] for f in frames if f.type.endswith(("received", "started", "assigned"))}
    assert by_people == {"user:ada"}
    assert data_of(frames, "conversation.tool_result_received")[0]["result"] == 1


async def test_two_people_may_use_the_service_side_by_side(database_url: str) -> None:
    async with serving(database_url, **HEADER) as server:
        streams = await asyncio.gather(
            *(
                server.client.say(f"hi {n}", conversation_id=f"c-{n}", **(ADA if n % 2 else EVE))
                for n in range(10)
            )
        )
        stored = await log_of(database_url)
    assert {frames[-1].type for frames in streams} == {"turn.committed"}
    owners = {e["conversation_id"]: e["actor"] for e in stored if e["type"] == "conversation.started"}
    assert owners == {f"c-{n}": "user:ada" if n % 2 else "user:eve" for n in range(10)}
