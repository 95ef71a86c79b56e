"""A turn that fails changes nothing, says so with a stable code, and can be tried again."""

import asyncio

import pytest

from application.user_message import user_message
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
    rows,
    said_by,
    status_of,
    steered,
    turns_of,
    types,
)
from tests.openai_pieces import Cut, EndEarly, Pause, Piece, Status, StreamError, Text
from tests.serving import Refused, Serving, SseFrame, frames_of, serving

ADA = {"conversation_id": "ada"}
HELLO = {"type": "user_message", "content": "hello"}


async def retry(server: Serving, turn_id: str) -> list[SseFrame]:
    """Retry a turn and read its stream to the end."""
    async with server.client.http.stream("POST", f"/v1/turns/{turn_id}/retry") as response:
        if response.status_code != 200:
            await response.aread()
            raise Refused(response.status_code, response.json())
        return [frame async for frame in frames_of(response)]


FAILING = {
    "fail": ("model_unavailable", True),
    "rate limit": ("model_rate_limited", True),
    "refuse": ("model_refused", False),
    "timeout": ("model_timeout", True),
    "auth": ("model_auth", False),
}


@pytest.mark.parametrize("word", FAILING)
async def test_a_model_that_fails_fails_the_turn_with_its_code_and_stores_nothing(
    database_url: str, word: str
) -> None:
    code, retryable = FAILING[word]
    async with serving(database_url) as server:
        frames = await server.client.say(word, **ADA, turn_id="t-1")
        state = await status_of(server, "t-1")
        assert await server.client.read_turn("t-1") == frames[-1:]
        assert await log_of(database_url) == []
        assert types(await server.client.say("help", **ADA))[0] == "started"
    check_frames(frames)
    end = end_of(frames)
    assert (frames[-1].type, end["code"], end["retryable"]) == ("turn.failed", code, retryable)
    error = {"code": code, "message": end["message"], "retryable": retryable}
    assert (state["state"], state["error"], state["first_position"]) == ("failed", error, None)


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([Status(429, "slow down, sk-secret")], "model_rate_limited"),
        ([Status(500, "boom sk-secret")], "model_unavailable"),
        ([Status(401, "bad key sk-secret")], "model_auth"),
        ([Status(400, "bad request sk-secret")], "model_refused"),
        ([Text("half an ans"), Cut()], "model_unavailable"),
        ([Text("half an ans"), EndEarly()], "model_unavailable"),
        ([Text("half an ans"), StreamError("sk-secret")], "model_unavailable"),
        ([Text("half an ans"), Pause(5)], "model_timeout"),
    ],
    ids=["429", "500", "401", "400", "cut", "early", "error", "stall"],
)
async def test_what_a_provider_says_about_its_failure_is_never_stored_or_shown(
    database_url: str, pieces: list[Piece], code: str
) -> None:
    async with steered(database_url, lambda _: pieces, model_timeout_s=0.5) as (server, _):
        frames = await server.client.say("hi", **ADA, turn_id="t-1")
        assert await log_of(database_url) == []
        kept = await rows(database_url, "SELECT row_to_json(turns)::text FROM turns")
    assert (frames[-1].type, end_of(frames)["code"]) == ("turn.failed", code)
    assert "secret" not in f"{frames}{kept}"


async def test_a_retry_is_the_next_attempt_of_the_same_message(database_url: str) -> None:
    script = in_turn([Status(500)], [Text("half"), Cut()], [Text("whole")])
    async with steered(database_url, script) as (server, _):
        first = await server.client.send(HELLO, **ADA, turn_id="t-1")
        second = await retry(server, "t-1")
        third = await retry(server, "t-1")
        state = await status_of(server, "t-1")
        assert as_logged(third) == await log_of(database_url)
        assert await server.client.send(HELLO, **ADA, turn_id="t-1") == [*committed(third), third[-1]]
        for cursor in ("1.1", "2.9"):
            assert await server.client.read_turn("t-1", cursor) == [*committed(third), third[-1]]
    for attempt, frames in enumerate((first, second, third), 1):
        check_frames(frames, attempt)
    assert (first[-1].type, second[-1].type, third[-1].type) == (
        "turn.failed",
        "turn.failed",
        "turn.committed",
    )
    assert data_of(third, "conversation.user_message_received")[0]["content"] == "hello"
    assert said_by(third) == ["whole"]
    assert (state["state"], state["attempt"], state["error"]) == ("committed", 3, None)


async def test_a_failed_turn_is_replayed_and_not_run_when_its_message_comes_again(database_url: str) -> None:
    async with steered(database_url, in_turn([Status(500)])) as (server, model):
        first = await server.client.send(HELLO, **ADA, turn_id="t-1")
        assert await server.client.send(HELLO, **ADA, turn_id="t-1") == first[-1:]
        for cursor in ("1.1", first[-1].id, "1.99"):
            assert await server.client.read_turn("t-1", cursor) == first[-1:]
        assert len(model.requests) == 1


async def test_what_is_not_over_or_went_well_is_not_retried(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn([Status(500)], gate.pieces())) as (server, _):
        await server.client.say("hi", **ADA, turn_id="t-0")
        stream = asyncio.create_task(server.client.say("hi", **ADA, turn_id="t-1"))
        await gate.reached.wait()
        with pytest.raises(Refused, match="turn_not_retryable"):
            await retry(server, "t-1")
        with pytest.raises(Refused, match="turn_in_progress"):
            await retry(server, "t-0")
        gate.opened.set()
        await stream
        with pytest.raises(Refused, match="turn_not_retryable") as refusal:
            await retry(server, "t-1")
        assert refusal.value.status == 409


async def test_ten_retries_at_the_same_instant_are_one_attempt(database_url: str) -> None:
    gate = Gate()
    async with steered(database_url, in_turn([Status(500)], gate.pieces())) as (server, model):
        await server.client.send(HELLO, **ADA, turn_id="t-1")
        tries = [asyncio.create_task(retry(server, "t-1")) for _ in range(10)]
        await gate.reached.wait()
        await asyncio.sleep(0.2)
        gate.opened.set()
        ends = await asyncio.gather(*tries, return_exceptions=True)
        assert len(model.requests) == 2
        assert (await status_of(server, "t-1"))["attempt"] == 2
    assert sum(isinstance(end, list) for end in ends) == 1


async def test_an_error_in_our_own_code_is_an_internal_error_and_stores_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(message: object, turn: object, kit: object) -> None:
        raise RuntimeError("at /home/secret, line 7")

    async with serving(database_url) as server:
        monkeypatch.setattr("application.running.USE_CASES", {"user_message": breaks})
        frames = await server.client.say("hi", **ADA, turn_id="t-1")
        assert await log_of(database_url) == []
        assert await turns_of(database_url) == [("t-1", "failed")]
        monkeypatch.setattr("application.running.USE_CASES", {"user_message": user_message})
        assert types(await retry(server, "t-1"))[0] == "started"
    check_frames(frames)
    assert end_of(frames)["code"] == "internal_error"
    assert end_of(frames)["retryable"] is False
    assert "secret" not in str(frames)


async def test_a_result_whose_turn_failed_is_not_recorded_and_a_retry_records_it(database_url: str) -> None:
    script = in_turn(reading(1), [Status(500)], [Text("thanks")])
    async with steered(database_url, script) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        before = await log_of(database_url)
        failed = await result(server.client, "ada", call_id, [0], turn_id="t-2")
        assert failed[-1].type == "turn.failed"
        assert await log_of(database_url) == before
        again = await retry(server, "t-2")
        assert await log_of(database_url) == before + as_logged(again)
    check_frames(again, attempt=2)
    assert types(again) == ["tool_result_received", "model_called", "assistant_message_sent"]
    assert data_of(again, "conversation.tool_result_received")[0]["result"] == [0]


async def test_a_retry_that_comes_too_late_is_refused_and_blocks_nothing(database_url: str) -> None:
    async with steered(database_url, in_turn(reading(1), [Status(500)])) as (server, _):
        (call_id,) = calls_of(await server.client.say("hi", **ADA))
        await result(server.client, "ada", call_id, turn_id="t-2")
        await server.client.say("never mind", **ADA)
        before = await log_of(database_url)
        for attempt in (2, 3):
            with pytest.raises(Refused, match="call_closed") as refusal:
                await retry(server, "t-2")
            state = await status_of(server, "t-2")
            assert (state["state"], state["attempt"]) == ("failed", attempt)
            error = {name: refusal.value.problem[name] for name in ("code", "retryable")}
            assert state["error"] == {**error, "message": refusal.value.problem["detail"]}
            assert end_of(await server.client.read_turn("t-2"))["code"] == "call_closed"
        assert await log_of(database_url) == before
        assert types(await server.client.say("go on", **ADA))[-1] == "assistant_message_sent"


async def test_who_attaches_to_a_retry_with_a_cursor_of_the_first_attempt_reads_it_from_its_start(
    database_url: str,
) -> None:
    gate = Gate()
    async with steered(database_url, in_turn([Text("half"), Cut()], gate.pieces())) as (server, _):
        first = await server.client.send(HELLO, **ADA, turn_id="t-1")
        second = asyncio.create_task(retry(server, "t-1"))
        await gate.reached.wait()
        attached = asyncio.create_task(server.client.read_turn("t-1", first[-1].id))
        repeated = asyncio.create_task(server.client.send(HELLO, **ADA, turn_id="t-1"))
        await asyncio.sleep(0.1)
        gate.opened.set()
        frames = await second
        assert await attached == await repeated == frames
    check_frames(frames, attempt=2)
