"""The two tools that are ours: they change the turn and never reach the client."""

import json
from collections.abc import Mapping
from typing import Any

from application.agents import PROPOSE_PLAN, SWITCH_AGENT
from application.errors import AgentNotFoundError
from application.ids import new_id
from application.model_view import Aside
from application.ports import UnitOfWork
from application.turn import Kit, Turn, switch_limit
from domain.aggregate import By
from domain.errors import InvalidPlanError, SwitchLimitReachedError


def use_our_tool(
    tool: str,
    ids: tuple[str, str],
    arguments: Mapping[str, Any],
    work: UnitOfWork,
    turn: Turn,
    kit: Kit,
    by: By,
) -> None:
    """Do what the model asked of us, or tell it why not; `ids` are our call id and the model's."""
    try:
        said = OURS[tool](arguments, work, turn, kit, by)
    except (InvalidPlanError, AgentNotFoundError, SwitchLimitReachedError) as refusal:
        said = str(refusal)
    answer_our_tool(tool, ids, arguments, said, work, turn)


def answer_our_tool(
    tool: str, ids: tuple[str, str], arguments: Mapping[str, Any], said: str, work: UnitOfWork, turn: Turn
) -> None:
    """Let the model see, for the length of the turn, its call and what came of it."""
    turn.asides.append(Aside(work.conversation.version, *ids, tool, json.dumps(arguments), said))


def _switch(arguments: Mapping[str, Any], work: UnitOfWork, turn: Turn, kit: Kit, by: By) -> str:
    to = kit.roster.get(str(arguments.get("agent", ""))).name
    if work.conversation.plan_in("execution"):
        return "A plan is being carried out; it changes agents by itself."
    reason = str(arguments.get("reason") or "")
    limit = switch_limit(work.agent.name, kit.limits)
    work.agent.switch(to, reason, by.actor, by, limit)
    turn.status(f"{to} takes over", agent=to, reason=reason)
    return f"You are now {to}. {reason}".strip()


def _propose(arguments: Mapping[str, Any], work: UnitOfWork, turn: Turn, kit: Kit, by: By) -> str:
    if not kit.roster.get(work.agent.name).may_plan:
        return "Only an architect proposes plans."
    subtasks = arguments.get("subtasks")
    if not isinstance(subtasks, list) or not isinstance(arguments.get("goal"), str):
        raise InvalidPlanError(reason="it needs a goal and a list of subtasks")
    for task in subtasks:
        kit.roster.get(str(task.get("agent", "")) if isinstance(task, dict) else "")
    work.conversation.propose_plan(new_id(), arguments["goal"], subtasks, work.agent.name, by)
    turn.status("a plan is proposed", subtasks=len(subtasks))
    return "The plan was proposed; a person decides on it."


OURS = {SWITCH_AGENT.name: _switch, PROPOSE_PLAN.name: _propose}
