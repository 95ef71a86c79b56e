"""The origin's door: messages, tools, decisions and agents, over the same turns."""

import json
from typing import Any

import pytest

from tests.origin_client import DOOR, only, origin, parsed, said, stored, types

# --- a person says something ---------------------------------------------------------------------


async def test_a_message_is_answered_in_tokens_and_as_a_whole(database_url: str) -> None:
    async with origin(database_url) as ide:
        chunks = await ide.say("hello there")
    assert types(chunks) == ["session_info", "assistant_message", "done"]
    deltas = [said(chunk) for chunk in chunks if chunk["token"] is not None]
    assert len(deltas) > 3
    assert all(delta.keys() == {"token"} for delta in deltas)
    whole = said(only(chunks, "assistant_message"))
    assert whole == {"content": "".join(delta["token"] for delta in deltas)}
    assert whole["content"].startswith("You said: hello there")


async def test_a_session_that_is_named_is_kept_and_goes_on(database_url: str) -> None:
    async with origin(database_url) as ide:
        fresh = await ide.post({"type": "user_message", "content": "hello"}, session_id="")
        assert parsed(fresh)[0]["session_id"]  # an empty one is none, and gets one
        ide.session_id = "session-of-the-ide"
        await ide.say("hello")
        await ide.say("once more")
        assert ide.session_id == "session-of-the-ide"
    assert len(stored(database_url, "conversation.started")) == 2
    received = stored(database_url, "conversation.user_message_received")
    assert [event["content"] for event in received] == ["hello", "hello", "once more"]


async def test_a_failed_turn_ends_in_one_error(database_url: str) -> None:
    async with origin(database_url) as ide:
        chunks = await ide.say("fail")
        turn_id = chunks[0]["metadata"]["turn_id"]
        turn = (await ide.server.client.http.get(f"/v1/turns/{turn_id}")).json()
    assert types(chunks) == ["session_info", "error"]
    assert said(chunks[-1]) == {
        "error": turn["error"]["message"],
        "metadata": {"code": "model_unavailable", "retryable": True, "turn_id": turn_id},
    }


# --- tools ---------------------------------------------------------------------------------------


async def test_a_free_call_is_the_final_chunk_and_its_result_lets_the_agent_go_on(database_url: str) -> None:
    async with origin(database_url) as ide:
        chunks = await ide.say("read README.md", agent="coder")
        call = said(chunks[-1])
        assert chunks[-1]["type"] == "tool_call"
        assert call.pop("call_id").startswith("call_")
        assert call == {
            "tool_name": "read_file",
            "arguments": {"path": "README.md"},
            "requires_approval": False,
        }
        answer = await ide.send("tool_result", call_id=chunks[-1]["call_id"], result="# A title", error=None)
    assert types(answer) == ["session_info", "assistant_message", "done"]
    assert "# A title" in only(answer, "assistant_message")["content"]


async def test_of_several_calls_all_come_and_only_the_last_chunk_is_final(database_url: str) -> None:
    async with origin(database_url) as ide:
        chunks = await ide.say("three files", agent="coder")
        calls = [chunk for chunk in chunks if chunk["type"] == "tool_call"]
        assert chunks[-3:] == calls
        assert [call["arguments"]["path"] for call in calls] == ["one.txt", "two.txt", "three.txt"]
        assert all(call["requires_approval"] for call in calls)
        first = await ide.send("hitl_decision", call_id=calls[0]["call_id"], decision="approve")
        assert [chunk["call_id"] for chunk in first if chunk["type"] == "tool_call"] == [calls[0]["call_id"]]
        left = await ide.send("tool_result", call_id=calls[0]["call_id"], result="ok")
    assert types(left) == ["session_info", "done"]
    assert left[-1]["metadata"]["waiting_for"]["calls"] == [call["call_id"] for call in calls[1:]]


@pytest.mark.parametrize("result", [None, False, 0, "", [], {"rows": 12345678901234567890}])
async def test_any_json_is_a_result_falsy_values_too(database_url: str, result: Any) -> None:
    async with origin(database_url) as ide:
        call = (await ide.say("read a.txt", agent="coder"))[-1]
        await ide.send("tool_result", call_id=call["call_id"], result=result)
    (event,) = stored(database_url, "conversation.tool_result_received")
    assert (event["result"], event["error"]) == (result, None)


async def test_a_tool_error_reaches_the_agent_as_an_error(database_url: str) -> None:
    async with origin(database_url) as ide:
        call = (await ide.say("read a.txt", agent="coder"))[-1]
        answer = await ide.send("tool_result", call_id=call["call_id"], result=None, error="no such file")
    assert "no such file" in only(answer, "assistant_message")["content"]
    (event,) = stored(database_url, "conversation.tool_result_received")
    assert (event["result"], event["error"]) == (None, "no such file")


async def test_the_same_result_again_is_answered_again_and_a_different_one_is_refused(
    database_url: str,
) -> None:
    async with origin(database_url) as ide:
        call = (await ide.say("read a.txt", agent="coder"))[-1]
        first = await ide.send("tool_result", call_id=call["call_id"], result=1)
        second = await ide.send("tool_result", call_id=call["call_id"], result=1)
        refused = await ide.refusal("tool_result", call_id=call["call_id"], result=2)
    assert only(second, "assistant_message") == only(first, "assistant_message")
    assert refused[0] == 409
    assert len(stored(database_url, "conversation.tool_result_received")) == 1


async def test_a_forbidden_call_is_never_announced(database_url: str) -> None:
    async with origin(database_url) as ide:
        chunks = await ide.say("forbidden", agent="coder")
    assert stored(database_url, "conversation.tool_call_requested")
    assert "tool_call" not in types(chunks)
    assert types(chunks)[-1] == "done"


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["approve", "approved"])
async def test_an_approved_call_is_announced_with_its_arguments(database_url: str, word: str) -> None:
    async with origin(database_url) as ide:
        call = (await ide.say("write hello.txt: hi", agent="coder"))[-1]
        assert call["requires_approval"] is True
        chunks = await ide.send(
            "hitl_decision", call_id=call["call_id"], decision=word, modified_arguments=None, feedback=""
        )
    assert types(chunks) == ["session_info", "tool_call"]
    assert chunks[-1] == {**call, "requires_approval": False}


@pytest.mark.parametrize("word", ["edit", "edited"])
async def test_edited_arguments_are_what_the_client_is_told_to_run(database_url: str, word: str) -> None:
    changed = {"path": "other.txt", "content": "hello"}
    async with origin(database_url) as ide:
        call = (await ide.say("write hello.txt: hi", agent="coder"))[-1]
        decision = {"call_id": call["call_id"], "decision": word, "modified_arguments": changed}
        chunks = await ide.send("hitl_decision", **decision)
        again = await ide.send("hitl_decision", **decision)
    assert chunks[-1] == {**call, "requires_approval": False, "arguments": changed}
    assert again[1:] == chunks[1:]
    (event,) = stored(database_url, "conversation.tool_call_edited")
    assert (event["arguments_before"], event["arguments_after"]) == (call["arguments"], changed)


@pytest.mark.parametrize("word", ["reject", "rejected"])
async def test_a_rejected_call_is_answered_by_the_feedback_and_the_agent_goes_on(
    database_url: str, word: str
) -> None:
    async with origin(database_url) as ide:
        call = (await ide.say("delete hello.txt", agent="coder"))[-1]
        chunks = await ide.send(
            "hitl_decision", call_id=call["call_id"], decision=word, feedback="I still need it"
        )
    assert types(chunks) == ["session_info", "assistant_message", "done"]
    assert "I still need it" in only(chunks, "assistant_message")["content"]
    assert [event["feedback"] for event in stored(database_url, "conversation.tool_call_rejected")] == [
        "I still need it"
    ]


# --- agents --------------------------------------------------------------------------------------


async def test_a_switch_says_who_was_on_who_is_and_why(database_url: str) -> None:
    async with origin(database_url) as ide:
        await ide.say("hello")
        chunks = await ide.send("switch_agent", agent_type="coder", reason="to write")
    assert types(chunks) == ["session_info", "agent_switched", "done"]
    assert said(chunks[1]) == {
        "metadata": {"from_agent": "orchestrator", "to_agent": "coder", "reason": "to write"}
    }


async def test_a_hand_over_by_the_agent_comes_in_the_same_stream(database_url: str) -> None:
    async with origin(database_url) as ide:
        chunks = await ide.say("as it is: switch to coder")
        if "agent_switched" not in types(chunks):
            chunks = await ide.say("switch to coder")
    assert only(chunks, "agent_switched")["metadata"]["to_agent"] == "coder"
    status = next(chunk for chunk in chunks if chunk["type"] == "status")
    assert status["content"] == "coder takes over"


async def test_a_client_that_goes_away_loses_nothing(database_url: str) -> None:
    body = {"message": {"type": "user_message", "content": "long 60"}}
    async with origin(database_url, demo_delay_s=0.005) as ide:
        async with ide.server.client.http.stream("POST", DOOR, json=body) as response:
            first = await anext(response.aiter_lines())
        turn_id = json.loads(first.removeprefix("data: "))["metadata"]["turn_id"]
        frames = await ide.server.client.read_turn(turn_id)
    assert frames[-1].type == "turn.committed"
    (answer,) = stored(database_url, "conversation.assistant_message_sent")
    assert answer["content"].endswith("word60")
    assert answer["truncated"] is False
