"""Turns from outside: their state, cancelling one, and trying a failed one again."""

import asyncio

from tests.integration.streams import (
    Gate,
    as_logged,
    calls_of,
    check_frames,
    committed,
    data_of,
    end_of,
    in_turn,
    log_of,
    reading,
    result,
    status_of,
    steered,
    types,
    until,
)
from tests.openai_pieces import Pause
from tests.serving import Serving, serving

ADA = {"conversation_id": "ada"}
HELLO = {"type": "user_message", "content": "hello"}


async def cancel(server: Serving, turn_id: str) -> dict[str, object]:
    """Cancel a turn and return how it ended."""
    response = await server.client.http.post(f"/v1/turns/{turn_id}/cancel")
    assert response.status_code == 200, response.text
    return dict(response.json())


# --- state ---------------------------------------------------------------------------------------


async def test_the_state_of_a_turn_has_exactly_the_fields_of_the_contract(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        stream = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await gate.reached.wait()
        running = await status_of(server, "t-1")
        gate.opened.set()
        end = end_of(await stream)
        over = await status_of(server, "t-1")
    assert running == {
        "turn_id": "t-1", "conversation_id": "ada", "kind": "user_message", "state": "running", "attempt": 1,
        "accepted_at": running["accepted_at"], "ended_at": None, "first_position": None,
        "last_position": None, "error": None,
    }  # fmt: skip
    positions = {"first_position": end["first_position"], "last_position": end["last_position"]}
    assert over == {**running, "state": "committed", "ended_at": over["ended_at"], **positions}
    assert over["accepted_at"] < over["ended_at"]


async def test_a_turn_that_is_not_there_is_404_at_every_door(database_url: str) -> None:
    doors = [("GET", ""), ("GET", "/stream"), ("POST", "/cancel"), ("POST", "/retry")]
    async with serving(database_url) as server:
        for turn_id in ("nobody", "%00", "a%20b", ".a", "x" * 300, "%ff", "a%0A", "a%2Fb"):
            for method, path in doors:
                response = await server.client.http.request(method, f"/v1/turns/{turn_id}{path}")
                assert response.status_code == 404, (turn_id, method, path)
                assert response.headers["content-type"] == "application/problem+json"
                expected = "not_found" if "%2F" in turn_id else "turn_not_found"
                assert response.json()["code"] == expected


# --- cancel --------------------------------------------------------------------------------------


async def test_a_cancelled_turn_keeps_what_was_said_and_says_that_it_was_cut(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        stream = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await gate.reached.wait()
        await asyncio.sleep(0.1)  # the word is on its way through two sockets
        state = await cancel(server, "t-1")
        frames = await stream
        assert await cancel(server, "t-1") == state
        assert await server.client.read_turn("t-1") == [*committed(frames), frames[-1]]
        assert as_logged(frames) == await log_of(database_url)
        assert types(await server.client.say("go on", **ADA))[-1] == "assistant_message_sent"
    check_frames(frames)
    assert state["state"] == "committed"
    assert end_of(frames)["state"] == "idle"
    assert types(frames)[-4:] == [
        "user_message_received", "model_called", "assistant_message_sent", "turn_cancelled"
    ]  # fmt: skip
    (sent,) = data_of(frames, "conversation.assistant_message_sent")
    assert (sent["content"], sent["truncated"], sent["finish_reason"]) == ("before ", True, "cancelled")
    assert committed(frames)[-1].data["actor"] == "user:local"


async def test_a_turn_cancelled_before_a_word_was_said_keeps_the_message_and_leaves_the_model(
    database_url: str,
) -> None:
    async with steered(database_url, in_turn([Pause(30)])) as (server, model):
        stream = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await until(lambda: model.requests)
        await cancel(server, "t-1")
        frames = await stream
        async with asyncio.timeout(5):
            await model.disconnected.wait()
    assert types(frames)[-3:] == ["user_message_received", "model_called", "turn_cancelled"]


async def test_ten_cancels_at_the_same_instant_are_one(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        stream = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await gate.reached.wait()
        states = await asyncio.gather(*(cancel(server, "t-1") for _ in range(10)))
        frames = await stream
    assert types(frames).count("turn_cancelled") == 1
    assert states == [states[0]] * 10


async def test_cancelling_a_turn_that_is_over_changes_nothing(database_url: str) -> None:
    async with serving(database_url) as server:
        await server.client.say("hi", **ADA, turn_id="t-1")
        await server.client.say("fail", **ADA, turn_id="t-2")
        before = await log_of(database_url)
        for turn_id, state in (("t-1", "committed"), ("t-2", "failed")):
            assert (await cancel(server, turn_id))["state"] == state
        assert await log_of(database_url) == before


async def test_a_cancelled_result_is_kept_although_the_agent_is_stopped(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(reading(1), gate.pieces())) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        stream = asyncio.create_task(result(server.client, "ada", call_id, [0], turn_id="t-2"))
        await gate.reached.wait()
        await cancel(server, "t-2")
        frames = await stream
    assert types(frames)[0] == "tool_result_received"
    assert types(frames)[-1] == "turn_cancelled"
