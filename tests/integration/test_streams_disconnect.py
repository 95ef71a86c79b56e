"""A client that goes away loses nothing: the turn runs on, and is read again from any frame."""

import asyncio

import pytest

from tests.integration.streams import (
    Gate,
    as_logged,
    check_frames,
    committed,
    end_of,
    ended,
    in_turn,
    log_of,
    refused,
    steered,
    types,
    until,
)
from tests.openai_pieces import Text, call
from tests.serving import Client, Refused, SseFrame, frames_of, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

ADA = {"conversation_id": "ada"}


async def read_some(client: Client, body: dict[str, object], number: int) -> list[SseFrame]:
    """Open a stream, read so many frames of it, and hang up."""
    seen: list[SseFrame] = []
    async with client.stream(body) as response:
        assert response.status_code == 200
        frames = frames_of(response)
        while len(seen) < number:
            seen.append(await anext(frames))
    return seen


def body_of(number: int) -> dict[str, object]:
    """Return a message that is handed over, answered in pieces and ends in calls."""
    message = {"type": "user_message", "content": "write a.txt"}
    return {"conversation_id": f"c-{number}", "turn_id": f"t-{number}", "message": message}


async def test_a_disconnect_at_any_frame_loses_nothing(database_url: str) -> None:
    async with serving(database_url, demo_delay_s=0.002) as server:
        async with server.client.stream(body_of(0)) as response:
            whole = [frame async for frame in frames_of(response)]
        check_frames(whole)
        for n in range(len(whole)):
            turn_id = f"t-{n + 1}"
            seen = await read_some(server.client, body_of(n + 1), n)
            at_once = await server.client.read_turn(turn_id, f"1.{n}" if n else None)
            assert (await ended(server, turn_id))["state"] == "committed"
            kept = await server.client.read_turn(turn_id)
            assert [frame.type for frame in kept] == [frame.type for frame in stored_of(whole)]
            assert stored_of([*seen, *at_once]) == kept
            seqs = [frame.data["seq"] for frame in [*seen, *at_once]]
            assert seqs == sorted(set(seqs))
            for cut in {0, n, kept[0].data["seq"], kept[-1].data["seq"] - 1}:
                rest = await server.client.read_turn(turn_id, f"1.{cut}")
                assert rest == [frame for frame in kept if frame.data["seq"] > cut]
        stored = await log_of(database_url)
    assert len(stored) == (len(whole) + 1) * len(committed(whole))


def stored_of(frames: list[SseFrame]) -> list[SseFrame]:
    """Return what is there for ever: the committed frames and the terminal one."""
    return [*committed(frames), frames[-1]]


async def test_a_turn_runs_on_when_its_only_client_hangs_up_before_the_model_answers(
    database_url: str,
) -> None:
    gate = Gate(Text("and on"), *call(0, "x", "read_file", '{"path": "a"}'))
    async with steered(database_url, in_turn(gate.pieces())) as (server, model):
        await read_some(server.client, body_of(1), 1)
        await gate.reached.wait()
        await asyncio.sleep(0.05)
        problem = await refused(
            server.client,
            {"type": "user_message", "content": "me too"},
            "turn_in_progress",
            conversation_id="c-1",
        )
        assert problem["turn_id"] == "t-1"
        gate.opened.set()
        assert (await ended(server, "t-1"))["state"] == "committed"
        assert model.disconnects == 0
        stored = await log_of(database_url)
    assert [event["type"] for event in stored][-2:] == [
        "conversation.assistant_message_sent",
        "conversation.tool_call_requested",
    ]


async def test_who_comes_back_in_the_middle_sees_the_rest_live(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        seen = await read_some(server.client, body_of(1), 2)
        rest = asyncio.create_task(server.client.read_turn("t-1", "1.2"))
        await asyncio.sleep(0.05)
        assert not rest.done()
        gate.opened.set()
        check_frames([*seen, *await rest])


async def test_a_cursor_may_come_as_a_parameter(database_url: str) -> None:
    async with serving(database_url) as server:
        frames = await server.client.say("hi", turn_id="t-1")
        cut = frames[-3].id
        async with server.client.http.stream("GET", f"/v1/turns/t-1/stream?after={cut}") as response:
            rest = [frame async for frame in frames_of(response)]
    assert rest == frames[-2:]


async def test_a_cursor_beyond_the_end_still_learns_how_it_ended(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn(gate.pieces())) as (server, _):
        running = asyncio.create_task(server.client.say("hi", turn_id="t-1"))
        await gate.reached.wait()
        early = asyncio.create_task(server.client.read_turn("t-1", "1.9999"))
        await asyncio.sleep(0.05)
        gate.opened.set()
        frames = await running
        assert await early == frames[-1:]
        for cursor in (frames[-1].id, "1.9999", "1.999999999999999999"):
            assert await server.client.read_turn("t-1", cursor) == frames[-1:]


async def test_a_cursor_of_another_attempt_reads_the_newest_from_its_start(database_url: str) -> None:
    async with serving(database_url) as server:
        frames = await server.client.say("hi", turn_id="t-1")
        kept = stored_of(frames)
        for cursor in ("0.5", "2.1", "77.3"):
            assert await server.client.read_turn("t-1", cursor) == kept


async def test_what_is_no_cursor_is_refused(database_url: str) -> None:
    none = ["x", "1", "1.", ".1", "1.x", "-1.2", "1.-2", "1.2.3", "1,2", "1 .2", "0x1.2", f"1.{'9' * 20}"]
    async with serving(database_url) as server:
        await server.client.say("hi", turn_id="t-1")
        for cursor in none:
            with pytest.raises(Refused) as refusal:
                await server.client.read_turn("t-1", cursor)
            assert (refusal.value.status, refusal.value.code) == (422, "invalid_cursor"), cursor
            response = await server.client.http.get("/v1/turns/t-1/stream", params={"after": cursor})
            assert response.json()["code"] == "invalid_cursor", cursor


async def test_many_watchers_read_one_turn_at_their_own_pace(database_url: str) -> None:
    async with serving(database_url) as server:
        writer = asyncio.create_task(server.client.say("long 400", turn_id="t-1"))
        await until(lambda: server.house.running.get("t-1"))
        streams = await asyncio.gather(*(server.client.read_turn("t-1") for _ in range(10)))
        frames = await writer
        stored = await log_of(database_url)
    assert as_logged(frames) == stored
    assert types(frames)[-1] == "assistant_message_sent"
    for other in streams:
        assert stored_of(other) == stored_of(frames)
        assert end_of(other)["is_final"]
