"""The origin's door: its five messages in, its chunks out, over the same turns."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest

from tests.serving import Serving, serving

PLAN = "plan-approval-p"
DOOR = "/agent/message/stream"
FIELDS = {
    "type", "content", "token", "is_final", "session_id", "call_id", "tool_name", "arguments",
    "requires_approval", "approval_request_id", "plan_id", "plan_summary", "error", "metadata",
}  # fmt: skip
MEANS_SOMETHING = {"type", "is_final", "session_id"}  # set in every chunk

Chunk = dict[str, Any]


@asynccontextmanager
async def origin(url: str, **settings: Any) -> AsyncIterator["Origin"]:
    async with serving(url, **settings) as server:
        yield Origin(server)


class Origin:
    """A client as the origin's IDE: it knows a session, and reads up to the final chunk."""

    def __init__(self, server: Serving) -> None:
        self.server = server
        self.session_id: str | None = None

    async def post(self, message: Any, **more: Any) -> httpx.Response:
        """Send a message and return the whole answer, whatever it is."""
        return await self.server.client.http.post(DOOR, json={"message": message, **more})

    async def send(self, type_: str, **fields: Any) -> list[Chunk]:
        """Send a message in this session and return its chunks, held against what every stream promises."""
        where = {"session_id": self.session_id} if self.session_id else {}
        response = await self.post({"type": type_, **fields}, **where)
        assert response.status_code == 200, response.text
        chunks = parsed(response)
        self.session_id = chunks[0]["session_id"]
        assert {chunk["session_id"] for chunk in chunks} == {self.session_id}
        return chunks

    async def say(self, content: str, agent: str | None = None) -> list[Chunk]:
        return await self.send("user_message", content=content, agent_type=agent)

    async def refusal(self, type_: str, **fields: Any) -> tuple[int, str]:
        """Send a message that is refused; return the status and the detail."""
        response = await self.post({"type": type_, **fields}, session_id=self.session_id)
        body = response.json()
        assert body.keys() == {"detail"}, body
        assert response.headers["content-type"] == "application/json"
        return response.status_code, body["detail"]


def parsed(response: httpx.Response) -> list[Chunk]:
    """Read a stream strictly: bare `data:` lines of 14 fields, `session_info` first, and one final, last."""
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "\r" not in response.text
    messages = [message for message in response.text.split("\n\n") if not message.startswith(":")]
    assert messages.pop() == ""
    assert all(message.startswith("data: ") and "\n" not in message for message in messages)
    chunks = [json.loads(message.removeprefix("data: ")) for message in messages]
    assert all(chunk.keys() == FIELDS for chunk in chunks)
    assert [chunk["type"] == "session_info" for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert [chunk["is_final"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return chunks


def types(chunks: list[Chunk]) -> list[str]:
    """The types of the chunks, without what comes in pieces."""
    return [chunk["type"] for chunk in chunks if chunk["token"] is None and chunk["type"] != "status"]


def said(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chunk that are not empty, beside those that never are."""
    return {name: value for name, value in chunk.items() if value is not None and name not in MEANS_SOMETHING}


def only(chunks: list[Chunk], type_: str) -> Chunk:
    (chunk,) = (one for one in chunks if one["type"] == type_ and one["token"] is None)
    return chunk


def stored(url: str, type_: str) -> list[dict[str, Any]]:
    with psycopg.connect(url) as connection:
        query = "SELECT convert_from(data, 'UTF8') FROM log WHERE type = %s ORDER BY position"
        return [json.loads(data) for (data,) in connection.execute(query, [type_])]


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


# --- plans ---------------------------------------------------------------------------------------


async def proposed(ide: Origin) -> Chunk:
    chunks = await ide.say("plan a small site", agent="architect")
    assert [one for one in types(chunks) if one.startswith("plan")] == [
        "plan_created",
        "plan_approval_required",
    ]
    return chunks[-1]


async def test_a_proposed_plan_waits_for_a_decision(database_url: str) -> None:
    async with origin(database_url) as ide:
        plan = await proposed(ide)
    about = said(plan)
    subtasks = about.pop("metadata")["subtasks"]
    assert [task["agent"] for task in subtasks] == ["ask", "coder", "debug"]
    assert about == {
        "plan_id": plan["plan_id"],
        "plan_summary": "a small site",
        "approval_request_id": f"plan-approval-{plan['plan_id']}",
        "requires_approval": True,
    }


@pytest.mark.parametrize("word", ["modify", "modified"])
async def test_a_plan_sent_back_comes_again_as_its_next_version(database_url: str, word: str) -> None:
    async with origin(database_url) as ide:
        plan = await proposed(ide)
        chunks = await ide.send(
            "plan_decision",
            approval_request_id=plan["approval_request_id"],
            decision=word,
            feedback="add a test",
        )
    assert types(chunks)[:2] == ["session_info", "plan_modification_requested"]
    assert only(chunks, "plan_modification_requested")["content"] == "add a test"
    assert chunks[-1]["type"] == "plan_approval_required"
    assert chunks[-1]["approval_request_id"] == plan["approval_request_id"]
    assert chunks[-1]["metadata"]["plan_version"] == 2
    assert len(chunks[-1]["metadata"]["subtasks"]) == 4


@pytest.mark.parametrize("word", ["reject", "rejected"])
async def test_a_rejected_plan_is_over(database_url: str, word: str) -> None:
    async with origin(database_url) as ide:
        request_id = (await proposed(ide))["approval_request_id"]
        decision = {"approval_request_id": request_id, "decision": word, "feedback": "no"}
        chunks = await ide.send("plan_decision", **decision)
        again = await ide.send("plan_decision", **decision)
    assert types(chunks) == ["session_info", "plan_rejected", "done"]
    assert only(chunks, "plan_rejected")["content"] == "no"
    assert again[1:] == chunks[1:]
    assert len(stored(database_url, "conversation.plan_rejected")) == 1


@pytest.mark.parametrize("word", ["approve", "approved"])
async def test_an_approved_plan_is_carried_out_subtask_by_subtask(database_url: str, word: str) -> None:
    async with origin(database_url) as ide:
        plan = await proposed(ide)
        modified = {"approval_request_id": plan["approval_request_id"], "decision": "modify"}
        await ide.send("plan_decision", **modified, feedback="say when it is done")
        approval = {"approval_request_id": plan["approval_request_id"], "decision": word}
        reading = (await ide.send("plan_decision", **approval))[-1]
        assert (reading["type"], reading["tool_name"]) == ("tool_call", "read_file")
        repeated = (await ide.send("plan_decision", **approval))[-1]
        assert repeated == reading
        chunks = await ide.send("tool_result", call_id=reading["call_id"], result="text")
        assert only(chunks, "subtask_completed")["metadata"] == {"subtask_id": "1"}
        writing = chunks[-1]
        assert (writing["tool_name"], writing["requires_approval"]) == ("write_file", True)
        await ide.send("hitl_decision", call_id=writing["call_id"], decision="approve")
        end = await ide.send("tool_result", call_id=writing["call_id"], result="written")
    completed = [chunk["metadata"]["subtask_id"] for chunk in end if chunk["type"] == "subtask_completed"]
    assert completed == ["2", "3", "4"]
    assert only(end, "execution_completed")["plan_id"] == plan["plan_id"]
    assert end[-1]["type"] == "done"
    assert [event["plan_version"] for event in stored(database_url, "conversation.plan_approved")] == [2]


async def test_a_plan_that_is_stopped_by_other_words_is_said_to_have_ended(database_url: str) -> None:
    async with origin(database_url) as ide:
        plan = await proposed(ide)
        approval = {"approval_request_id": plan["approval_request_id"], "decision": "approve"}
        call = (await ide.send("plan_decision", **approval))[-1]
        chunks = await ide.say("something else")
        late = await ide.refusal("tool_result", call_id=call["call_id"], result="text")
    ended = [chunk for chunk in chunks if chunk["type"] == "status" and chunk["plan_id"]]
    assert [(chunk["plan_id"], chunk["metadata"]["reason"]) for chunk in ended] == [
        (plan["plan_id"], "superseded")
    ]
    assert (types(chunks)[-1], late[0]) == ("done", 409)


async def test_a_plan_nobody_knows_is_not_found(database_url: str) -> None:
    async with origin(database_url) as ide:
        await proposed(ide)
        status, detail = await ide.refusal(
            "plan_decision", approval_request_id="plan-approval-other", decision="approve"
        )
    assert (status, "other" in detail) == (404, True)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "missing"),
    [
        (None, "message"),
        ("hello", "message"),
        ({}, "type"),
        ({"type": "shout", "content": "x"}, "type"),
        ({"type": ["user_message"]}, "type"),
        ({"type": "user_message"}, "content"),
        ({"type": "user_message", "content": ""}, "content"),
        ({"type": "tool_result", "result": 1}, "call_id"),
        ({"type": "tool_result", "call_id": "c"}, "result or error"),
        ({"type": "switch_agent"}, "agent_type"),
        ({"type": "hitl_decision", "decision": "approve"}, "call_id"),
        ({"type": "hitl_decision", "call_id": "c"}, "decision"),
        ({"type": "hitl_decision", "call_id": "c", "decision": "edited"}, "modified_arguments"),
        ({"type": "plan_decision", "decision": "approve"}, "approval_request_id"),
        ({"type": "plan_decision", "approval_request_id": "plan-approval-p"}, "decision"),
        (
            {"type": "plan_decision", "approval_request_id": "plan-approval-p", "decision": "modify"},
            "feedback",
        ),
    ],
)
async def test_what_is_missing_or_unknown_is_400_before_the_stream(
    database_url: str, message: Any, missing: str
) -> None:
    async with origin(database_url) as ide:
        response = await ide.post(message, session_id="s")
    assert (response.status_code, response.json().keys()) == (400, {"detail"})
    assert missing in response.json()["detail"]


async def test_a_body_that_is_no_object_of_json_is_400(database_url: str) -> None:
    async with origin(database_url) as ide:
        for body in (b"", b"[]", b'"x"', b"{", b'{"message": {"type": "user_message", "content": NaN}}'):
            response = await ide.server.client.http.post(DOOR, content=body)
            assert (response.status_code, response.json().keys()) == (400, {"detail"}), body


async def test_other_refusals_have_the_status_of_the_table(database_url: str) -> None:
    async with origin(database_url) as ide:
        ide.session_id = "nobody-knows-it"
        assert (await ide.refusal("tool_result", call_id="c", result=1))[0] == 404
        assert (
            await ide.refusal("plan_decision", approval_request_id="plan-approval-p", decision="approve")
        )[0] == 404
        ide.session_id = None
        await ide.say("hello")
        assert (await ide.refusal("tool_result", call_id="c", result=1))[0] == 409
        assert (await ide.refusal("switch_agent", agent_type="nobody"))[0] == 404
        assert (await ide.refusal("hitl_decision", call_id="c", decision="perhaps"))[0] == 422
        assert (await ide.refusal("plan_decision", approval_request_id="p", decision="approve"))[0] == 422
        assert (await ide.refusal("user_message", content="a\0b"))[0] == 422
        no_session = await ide.post({"type": "tool_result", "call_id": "c", "result": 1})
        assert (no_session.status_code, "session_id" in no_session.json()["detail"]) == (400, True)


async def test_a_session_belongs_to_who_began_it(database_url: str) -> None:
    async with origin(database_url, identity_header="X-Subject") as ide:
        http = ide.server.client.http
        http.headers["X-Subject"] = "anna"
        request_id = (await proposed(ide))["approval_request_id"]
        http.headers["X-Subject"] = "bert"
        for message in (
            {"type": "user_message", "content": "mine now"},
            {"type": "plan_decision", "approval_request_id": request_id, "decision": "approve"},
        ):
            response = await ide.post(message, session_id=ide.session_id)
            assert (response.status_code, response.json().keys()) == (404, {"detail"})
        del http.headers["X-Subject"]
        nobody = await ide.post({"type": "user_message", "content": "who am I"})
        assert (nobody.status_code, nobody.json().keys()) == (401, {"detail"})


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
