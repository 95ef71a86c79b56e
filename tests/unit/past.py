"""What may have happened before: the facts that the tests of the conversation begin with."""

from typing import Any

from domain.conversation import Conversation
from domain.plan import Subtask
from tests.given import fact

FIRST = Subtask("s1", "look around", "ask")
SECOND = Subtask("s2", "write it", "coder", ("s1",))
PLAN: dict[str, Any] = {"plan_id": "p1", "plan_version": 1}

ARGUMENTS = {"path": "a.txt", "content": 0}


def asked(call_id: str, *, requires_decision: bool = True) -> Any:
    """An agent asked for a tool."""
    return fact(
        Conversation.ToolCallRequested,
        call_id=call_id,
        model_call_id="call_0",
        tool="write_file" if requires_decision else "read_file",
        arguments=ARGUMENTS,
        agent="coder",
        requires_decision=requires_decision,
        rule="writing" if requires_decision else "reading",
    )


ASKED = asked("call-1")
ASKED_FREELY = asked("call-2", requires_decision=False)

PROPOSED = fact(
    Conversation.PlanProposed,
    **PLAN,
    goal="a file",
    subtasks=[FIRST.to_json(), SECOND.to_json()],
    agent="architect",
)
APPROVED = fact(Conversation.PlanApproved, **PLAN, feedback=None)
MODIFIED = fact(Conversation.PlanModificationRequested, **PLAN, feedback="shorter")
STARTED = fact(
    Conversation.SubtaskStarted, plan_id="p1", subtask_id="s1", agent="ask", description="look around"
)
FIRST_DONE = fact(Conversation.SubtaskCompleted, plan_id="p1", subtask_id="s1")
SECOND_STARTED = fact(
    Conversation.SubtaskStarted, plan_id="p1", subtask_id="s2", agent="coder", description="write it"
)
