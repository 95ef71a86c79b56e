"""One model turn, shared by the use cases that let the agent go on."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from application.agents import PROPOSE_PLAN, SWITCH_AGENT, AgentProfile, AgentRoster
from application.errors import AgentNotFoundError, ModelCallLimitReachedError
from application.frames import DELTA, STARTED, STATUS, outcome_of
from application.ids import new_call_id, new_id
from application.model_view import Aside, model_messages, recent_events
from application.policy import Policy, Verdict
from application.ports import (
    Closing,
    Committed,
    Finished,
    LanguageModel,
    Limits,
    Metrics,
    ModelRequest,
    TextDelta,
    Tool,
    ToolCall,
    TurnRow,
    Turns,
    UnitOfWork,
    UnitOfWorkFactory,
)
from application.protocol import storable
from application.stream import TurnStream
from domain.aggregate import By
from domain.errors import InvalidPlanError, MinutebookError, SwitchLimitReachedError
from domain.plan import Plan

SYSTEM = "system"


@dataclass(frozen=True)
class Kit:
    """What a use case works with."""

    unit_of_work: UnitOfWorkFactory
    turns: Turns
    model: LanguageModel
    model_name: str
    roster: AgentRoster
    policy: Policy
    limits: Limits
    metrics: Metrics
    node: str


class Turn:
    """A turn while it runs: who asked, what it says, and whether somebody wants it to stop."""

    def __init__(self, row: TurnRow, stream: TurnStream) -> None:
        self.row = row
        self.stream = stream
        self.by = By(f"user:{row.subject}", row.turn_id)
        self.system = By(SYSTEM, row.turn_id)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cancelled = asyncio.Event()
        self.model_calls = 0
        self.asides: list[Aside] = []

    def by_agent(self, work: UnitOfWork) -> By:
        """Return the signature of the agent that is on."""
        return By(f"agent:{work.agent.name}", self.row.turn_id)

    @property
    def is_open(self) -> bool:
        """Whether the message was taken and the stream has begun."""
        return self.opened.done()

    def open(self, work: UnitOfWork) -> None:
        """Say that the message was taken; from now on the stream ends with a terminal frame."""
        self.stream.say(
            STARTED,
            kind=self.row.kind,
            actor=self.by.actor,
            agent=work.agent.name,
            started_at=self.row.accepted_at.isoformat(),
        )
        if not self.opened.done():
            self.opened.set_result(None)

    def status(self, text: str, **detail: Any) -> None:
        """Say what the turn is busy with."""
        self.stream.say(STATUS, text=text, **({"detail": detail} if detail else {}))


@dataclass(slots=True)
class Answer:
    """What one model call has said so far."""

    agent: str
    message_id: str = field(default_factory=new_id)
    text: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finished: Finished | None = None
    truncated: bool = False


async def commit(work: UnitOfWork, turn: Turn) -> Committed:
    """Store what the turn recorded, once."""
    return await _stored(work, _closing(turn, outcome=outcome_of(work.conversation)))


async def commit_repetition(work: UnitOfWork, turn: Turn, kit: Kit, first_turn_id: str) -> Committed:
    """Close a turn that repeats an earlier one: no new event, the first outcome again."""
    first = await kit.turns.find(first_turn_id, turn.row.subject)
    turn.open(work)
    if first is None:
        return await commit(work, turn)
    positions = {"first_position": first.first_position, "last_position": first.last_position}
    await _stored(work, _closing(turn, outcome=first.outcome, **positions))
    return Committed(**positions, events=(), outcome=first.outcome)


async def _stored(work: UnitOfWork, closing: Closing) -> Committed:
    """Commit to the end even when the task is cancelled meanwhile: a half-known commit helps nobody."""
    storing = asyncio.ensure_future(work.commit(closing))
    try:
        return await asyncio.shield(storing)
    except asyncio.CancelledError:
        return await storing


def _closing(turn: Turn, **fields: Any) -> Closing:
    return Closing(turn.row.turn_id, turn.row.attempt, turn.stream.last_seq, **fields)


# --- letting the agent go on ---------------------------------------------------------------------


async def proceed(work: UnitOfWork, turn: Turn, kit: Kit) -> None:
    """Let the agent go on until it waits for somebody or has nothing more to say.

    Raises `ModelError` and `ModelCallLimitReachedError`; in a plan the limit fails the plan instead.
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
        except ModelCallLimitReachedError as limit:
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
    if turn.cancelled.is_set():
        work.conversation.cancel_turn(turn.by)
        return False
    turn.model_calls += 1
    profile = kit.roster.get(work.agent.name)
    request = await _request(profile, work, turn, kit)
    answer = Answer(profile.name)
    started = time.monotonic()
    try:
        await _listen(answer, request, turn, kit)
    except MinutebookError as error:
        kit.metrics.model_called(request.model, error.code, time.monotonic() - started, 0, 0)
        raise
    _note_model_call(answer, request.model, time.monotonic() - started, work, turn, kit)
    return _record(answer, profile, work, turn, kit)


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


def switch_limit(agent: str, limits: Limits) -> int:
    """Return how often a conversation may switch away from this agent."""
    return limits.universal_switches if agent == "universal" else limits.switches


# --- listening -----------------------------------------------------------------------------------


async def _listen(answer: Answer, request: ModelRequest, turn: Turn, kit: Kit) -> None:
    """Fill the answer from the model; a cancel ends it early and marks it truncated."""
    listening = asyncio.create_task(_fill(answer, request, turn, kit))
    stopping = asyncio.create_task(turn.cancelled.wait())
    try:
        await asyncio.wait({listening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        answer.truncated = not listening.done()
    finally:
        stopping.cancel()
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def _fill(answer: Answer, request: ModelRequest, turn: Turn, kit: Kit) -> None:
    async with aclosing(kit.model.answer(request)) as chunks:  # type: ignore[type-var]  # a generator
        async for chunk in chunks:
            if isinstance(chunk, TextDelta):
                text = _storable_text(chunk.text)
                answer.text.append(text)
                turn.stream.say(DELTA, message_id=answer.message_id, agent=answer.agent, text=text)
            elif isinstance(chunk, ToolCall):
                answer.calls.append(chunk)
            else:
                answer.finished = chunk


def _storable_text(text: str) -> str:
    """Replace what no log can keep and no reader can read: NUL and halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _note_model_call(
    answer: Answer, model: str, seconds: float, work: UnitOfWork, turn: Turn, kit: Kit
) -> None:
    end = answer.finished or Finished("cancelled" if answer.truncated else "unknown")
    tokens = (end.input_tokens, end.output_tokens)
    work.agent.note_model_call(model, *tokens, round(seconds * 1000), end.reason, turn.by_agent(work))
    kit.metrics.model_called(model, end.reason, seconds, *tokens)


# --- recording what the model said ---------------------------------------------------------------


def _record(answer: Answer, profile: AgentProfile, work: UnitOfWork, turn: Turn, kit: Kit) -> bool:
    by = turn.by_agent(work)
    text = "".join(answer.text)
    if answer.truncated:
        if text:
            _send(answer, text, "cancelled", work, by)
        work.conversation.cancel_turn(turn.by)
        return False
    if text or not answer.calls:
        _send(answer, text, answer.finished.reason if answer.finished else "unknown", work, by)
    _record_client_calls(answer, profile, work, kit, by)
    for call in answer.calls:
        if call.tool in _OURS:
            _use_our_tool(call, work, turn, kit, by)
    return bool(answer.calls) and work.conversation.agent_may_go_on


def _send(answer: Answer, text: str, reason: str, work: UnitOfWork, by: By) -> None:
    work.conversation.send_assistant_message(
        answer.message_id, answer.agent, text, reason, by, truncated=answer.truncated
    )


def _record_client_calls(answer: Answer, profile: AgentProfile, work: UnitOfWork, kit: Kit, by: By) -> None:
    """Record the calls the client is to run, in order, then close those that are forbidden."""
    forbidden: list[tuple[str, Verdict]] = []
    for call in answer.calls:
        if call.tool in _OURS:
            continue
        arguments, verdict = _judged(call, profile, kit)
        call_id = new_call_id()
        asked = {
            "model_call_id": _storable_text(call.model_call_id),
            "tool": _storable_text(call.tool),
            "arguments": arguments,
            "agent": profile.name,
            "requires_decision": verdict.kind != "free",
            "rule": verdict.rule,
        }
        work.conversation.request_call(call_id, asked, by)
        if verdict.kind == "forbidden":
            forbidden.append((call_id, verdict))
    for call_id, verdict in forbidden:
        work.conversation.close_call(call_id, "forbidden", By(SYSTEM, by.turn_id), verdict.reason)


def _judged(call: ToolCall, profile: AgentProfile, kit: Kit) -> tuple[Any, Verdict]:
    """Return the arguments and the policy's verdict; what is not an object is kept as text and forbidden."""
    arguments = _parsed_arguments(call.arguments)
    if arguments is None:
        reason = "The arguments are not a JSON object; call the tool again with valid arguments."
        return _storable_text(call.arguments), Verdict("forbidden", "invalid_arguments", reason)
    if len(call.arguments.encode("utf-8", "replace")) > kit.limits.message_bytes:
        reason = f"The arguments are larger than {kit.limits.message_bytes} bytes."
        return {}, Verdict("forbidden", "arguments_too_large", reason)
    return arguments, kit.policy.judge(profile, call.tool, arguments)


def _parsed_arguments(text: str) -> dict[str, Any] | None:
    try:
        arguments = storable(json.loads(text or "{}"))
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


# --- our own tools: they never reach the client --------------------------------------------------


def _use_our_tool(call: ToolCall, work: UnitOfWork, turn: Turn, kit: Kit, by: By) -> None:
    arguments = _parsed_arguments(call.arguments) or {}
    try:
        said = _OURS[call.tool](arguments, work, turn, kit, by)
    except (InvalidPlanError, AgentNotFoundError, SwitchLimitReachedError) as refusal:
        said = str(refusal)
    ids = (new_call_id(), _storable_text(call.model_call_id))
    turn.asides.append(Aside(work.conversation.version, *ids, call.tool, json.dumps(arguments), said))


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


_OURS = {SWITCH_AGENT.name: _switch, PROPOSE_PLAN.name: _propose}
