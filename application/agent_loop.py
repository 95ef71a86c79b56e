"""The agent goes on: it is asked until it waits for somebody or has nothing more to say."""

import asyncio
import time

from application.agents import PROPOSE_PLAN, SWITCH_AGENT, AgentProfile
from application.answer import Answer, record
from application.errors import (
    AnswerLimitReachedError,
    ModelCallLimitReachedError,
    TurnTimeLimitReachedError,
)
from application.language_model import Finished, ModelRequest, Tool
from application.listening import listen
from application.model_view import model_messages, recent_events
from application.ports import UnitOfWork
from application.turn import Kit, Turn, switch_limit
from domain.errors import MinutebookError
from domain.plan import Plan

# In a plan these fail the subtask, and with it the plan; what was done is kept.
_LIMITS = (AnswerLimitReachedError, ModelCallLimitReachedError, TurnTimeLimitReachedError)


async def proceed(work: UnitOfWork, turn: Turn, kit: Kit) -> None:
    """Let the agent go on until it waits for somebody or has nothing more to say.

    Raises `ModelError`, `ModelCallLimitReachedError` and `TurnTimeLimitReachedError`; in a plan a limit fails
    the plan instead.
    """
    if plan := work.conversation.plan_in("execution"):
        await _carry_out(plan, work, turn, kit)
    else:
        await _converse(work, turn, kit)


def return_from_plan(plan: Plan, work: UnitOfWork, turn: Turn) -> None:
    """Put the agent that proposed the plan on again."""
    work.agent.switch(plan.proposed_by, "back to who proposed the plan", f"plan:{plan.plan_id}", turn.system)


async def _carry_out(plan: Plan, work: UnitOfWork, turn: Turn, kit: Kit) -> None:
    while current := work.conversation.plan_in("execution"):
        _take_up_next_subtask(current, work, turn)
        try:
            await _converse(work, turn, kit)
        except _LIMITS as limit:
            work.conversation.fail_subtask(limit.code, turn.system)
        if work.conversation.calls:
            return
        if work.conversation.plan_in("execution"):
            work.conversation.complete_subtask(turn.by_agent(work))
    return_from_plan(plan, work, turn)


def _take_up_next_subtask(plan: Plan, work: UnitOfWork, turn: Turn) -> None:
    task = plan.subtask(plan.running) if plan.running else plan.next_subtask()
    if task is None or plan.running:
        return
    number, of = len(plan.done) + 1, len(plan.subtasks)
    work.agent.switch(task.agent, f"subtask {task.id}", f"plan:{plan.plan_id}", turn.system)
    work.conversation.start_subtask(task, turn.system)
    turn.status(f"subtask {number}/{of}", subtask_id=task.id, agent=task.agent)


async def _converse(work: UnitOfWork, turn: Turn, kit: Kit) -> None:
    while await _answer_once(work, turn, kit):
        pass


async def _answer_once(work: UnitOfWork, turn: Turn, kit: Kit) -> bool:
    """Ask the model once and record what it said; returns whether it is to be asked again."""
    if turn.model_calls >= kit.limits.model_calls:
        raise ModelCallLimitReachedError(limit=kit.limits.model_calls)
    if asyncio.get_running_loop().time() > turn.began + kit.limits.turn_s:
        raise TurnTimeLimitReachedError(limit=f"{kit.limits.turn_s:g}")
    if turn.is_cancelled:
        work.conversation.cancel_turn(turn.by)
        return False
    turn.model_calls += 1
    profile = kit.roster.get(work.agent.name)
    request = await _request(profile, work, turn, kit)
    answer = Answer(profile.name)
    started = time.monotonic()
    try:
        await listen(answer, request, turn, kit)
    except MinutebookError as error:
        kit.metrics.model_called(request.model, error.code, time.monotonic() - started, 0, 0)
        raise
    _note_model_call(answer, request.model, time.monotonic() - started, work, turn, kit)
    return record(answer, profile, work, turn, kit)


async def _request(profile: AgentProfile, work: UnitOfWork, turn: Turn, kit: Kit) -> ModelRequest:
    events = await recent_events(work.newest_first(), kit.limits.view_tokens)
    return ModelRequest(
        model=profile.model or kit.model_name,
        agent=profile.name,
        instructions=profile.instructions,
        messages=model_messages(events, turn.asides),
        tools=_tools(profile, work, kit),
    )


def _tools(profile: AgentProfile, work: UnitOfWork, kit: Kit) -> list[Tool]:
    """Return what the model is offered now: our own tools only where they can be used."""
    unusable: set[str] = set()
    if work.conversation.plan_in("execution"):
        unusable = {SWITCH_AGENT.name, PROPOSE_PLAN.name}  # a plan changes agents by itself
    elif work.agent.switches >= switch_limit(work.agent.name, kit.limits):
        unusable = {SWITCH_AGENT.name}
    return [tool for tool in kit.roster.tools_for(profile.name) if tool.name not in unusable]


def _note_model_call(
    answer: Answer, model: str, seconds: float, work: UnitOfWork, turn: Turn, kit: Kit
) -> None:
    end = answer.finished or Finished(answer.broken_off or "unknown")
    tokens = (end.input_tokens, end.output_tokens)
    work.agent.note_model_call(model, *tokens, round(seconds * 1000), end.reason, turn.by_agent(work))
    kit.metrics.model_called(model, end.reason, seconds, *tokens)
