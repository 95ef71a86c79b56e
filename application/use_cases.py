"""The five messages and the use case of each: the wire word is the file, the function and the class.

Beside them stands `amend`, which comes by `PATCH` and not as a message.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from application.amend import amend
from application.hitl_decision import hitl_decision
from application.plan_decision import plan_decision
from application.ports import Committed
from application.switch_agent import switch_agent
from application.tool_result import tool_result
from application.turn import Kit, Turn
from application.user_message import user_message

UseCase = Callable[[Any, Turn, Kit], Awaitable[Committed]]

USE_CASES: Mapping[str, UseCase] = {
    "user_message": user_message,
    "tool_result": tool_result,
    "switch_agent": switch_agent,
    "hitl_decision": hitl_decision,
    "plan_decision": plan_decision,
    "amend": amend,
}

# Clients run tools side by side: these wait for a running turn instead of being refused at once.
PATIENT = frozenset({"tool_result", "hitl_decision"})
