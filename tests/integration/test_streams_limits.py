"""The limits of a turn and of a conversation: a clear error, and nothing lost."""

import itertools
from typing import Any

from tests.integration.streams import (
    ask,
    calling,
    data_of,
    end_of,
    in_turn,
    log_of,
    refused,
    said_by,
    steered,
    turns_of,
    types,
)
from tests.integration.test_streams_plans import decide_plan, done, proposing, step
from tests.openai_pieces import Piece, Text
from tests.serving import serving

ADA = {"conversation_id": "ada"}


def forbidden(_: Any) -> list[Piece]:
    """Call a tool that there is not, again and again."""
    return calling(("no_such_tool", {}))


async def test_a_turn_that_needs_too_many_model_calls_fails_and_can_be_retried(database_url: str) -> None:
    async with steered(database_url, forbidden, max_model_calls=4) as (server, model):
        frames = await server.client.say("hi", **ADA, turn_id="t-1")
        assert len(model.requests) == 4
        assert await log_of(database_url) == []
        assert await turns_of(database_url) == [("t-1", "failed")]
        model.script = in_turn()
        async with server.client.http.stream("POST", "/v1/turns/t-1/retry") as response:
            assert b"turn.committed" in await response.aread()
    assert (frames[-1].type, end_of(frames)["code"]) == ("turn.failed", "model_call_limit_reached")
    assert "4" in end_of(frames)["message"]
    assert end_of(frames)["retryable"] is True


async def test_a_plan_that_needs_too_many_model_calls_fails_as_a_plan_and_is_stored(
    database_url: str,
) -> None:
    answers: list[list[Piece]] = [proposing(step("one", "ask"), step("two", "ask", "one")), [Text("did")]]

    def script(request: Any) -> list[Piece]:
        return answers.pop(0) if answers else forbidden(request)

    async with steered(database_url, script, max_model_calls=4) as (server, _):
        proposed = await ask(server.client, "plan", "architect", **ADA)
        frames = await decide_plan(server.client, proposed, "approve")
    assert done(frames) == ["+one", "-one", "+two", "!two"]
    assert types(frames)[-3:] == ["subtask_failed", "plan_failed", "switched"]
    assert data_of(frames, "conversation.plan_failed")[0]["reason"] == "model_call_limit_reached"
    assert end_of(frames)["state"] == "idle"


async def test_a_person_cannot_switch_beyond_the_limit(database_url: str) -> None:
    agents = itertools.cycle(["ask", "coder"])
    async with serving(database_url, max_switches=3, max_universal_switches=4) as server:
        client = server.client
        await client.say("help", **ADA)
        for agent in itertools.islice(agents, 3):
            await client.send({"type": "switch_agent", "agent": agent}, **ADA)
        before = await log_of(database_url)
        for message in (
            {"type": "switch_agent", "agent": "debug"},
            {"type": "user_message", "content": "hi", "agent": "debug"},
        ):
            problem = await refused(client, message, "switch_limit_reached", **ADA)
            assert problem["status"] == 409
            assert "3" in problem["detail"]
        assert await log_of(database_url) == before
        assert types(await client.say("help", **ADA))[-1] == "assistant_message_sent"


async def test_the_universal_agent_may_be_switched_away_from_more_often(database_url: str) -> None:
    async with serving(database_url, max_switches=2, max_universal_switches=3) as server:
        client = server.client
        await ask(client, "help", "ask", **ADA)
        for agent in ("coder", "universal", "ask"):
            assert types(await client.send({"type": "switch_agent", "agent": agent}, **ADA)) == ["switched"]
        message = {"type": "switch_agent", "agent": "universal"}
        await refused(client, message, "switch_limit_reached", **ADA)


async def test_an_agent_at_the_limit_is_not_offered_to_hand_over_and_is_told_when_it_tries(
    database_url: str,
) -> None:
    def over_to(agent: str) -> list[Piece]:
        return calling(("switch_agent", {"agent": agent, "reason": "so"}))

    script = in_turn(over_to("ask"), over_to("coder"), over_to("debug"), [Text("I stay.")])
    async with steered(database_url, script, max_switches=2) as (server, model):
        frames = await server.client.say("hi", **ADA)
        offered = [[tool["name"] for tool in request.tools] for request in model.requests]
        told = [message["content"] for message in model.requests[-1].messages if message["role"] == "tool"]
    assert ["switch_agent" in names for names in offered] == [True, True, False, False]
    assert [said["to"] for said in data_of(frames, "agent.switched")] == ["ask", "coder"]
    assert "limit" in told[-1]
    assert said_by(frames)[-1] == "I stay."


async def test_the_switches_of_a_plan_do_not_count(database_url: str) -> None:
    steps = [step(str(n), agent) for n, agent in enumerate(["ask", "coder"] * 3)]
    async with steered(database_url, in_turn(proposing(*steps)), max_switches=1) as (server, _):
        proposed = await ask(server.client, "plan", "architect", **ADA)
        frames = await decide_plan(server.client, proposed, "approve")
        assert len(data_of(frames, "agent.switched")) == 7
        message = {"type": "switch_agent", "agent": "ask"}
        assert types(await server.client.send(message, **ADA)) == ["switched"]
        await refused(server.client, {**message, "agent": "coder"}, "switch_limit_reached", **ADA)


async def test_an_agent_that_hands_over_to_nobody_is_told_who_there_is(database_url: str) -> None:
    script = in_turn(calling(("switch_agent", {"agent": "nobody"})), calling(("switch_agent", {})))
    async with steered(database_url, script) as (server, model):
        frames = await server.client.say("hi", **ADA)
        told = [message["content"] for message in model.requests[-1].messages if message["role"] == "tool"]
    assert data_of(frames, "agent.switched") == []
    assert len(told) == 2
    assert all("architect" in one for one in told)
