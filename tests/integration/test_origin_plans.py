"""The origin's door: plans, whose version its clients never say."""

import pytest

from tests.origin_client import only, origin, proposed, said, stored, types


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
