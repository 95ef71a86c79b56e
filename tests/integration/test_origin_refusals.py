"""The origin's door: what is refused, and how it is said."""

from typing import Any

import pytest

from tests.origin_client import DOOR, origin, proposed


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
