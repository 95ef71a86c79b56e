"""What was said, asked, decided and done in one conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from eventsourcing.domain import event

from domain.aggregate import By, SignedAggregate
from domain.errors import (
    CallNotApprovedError,
    CallNotFoundError,
    ConversationArchivedError,
    InvalidPlanError,
    NothingAwaitedError,
    PlanAlreadyDecidedError,
    PlanInExecutionError,
    PlanNotFoundError,
)
from domain.plan import Plan, Subtask, checked_subtasks, plan_key
from domain.values import (
    CallDecision,
    CloseReason,
    OpenCall,
    PlanDecision,
    SettledCall,
    Settlement,
    State,
    decision_fingerprint,
    fingerprint,
    forget_oldest,
    plan_fingerprint,
    revived,
)


def conversation_stream(conversation_id: str) -> str:
    """Return the name of a conversation's stream."""
    return f"conversation-{conversation_id}"


class CallEvent(SignedAggregate.Event):
    """What the events about one call share."""

    call_id: str
    tool: str


class PlanEvent(SignedAggregate.Event):
    """What the events about one version of a plan share."""

    plan_id: str
    plan_version: int


class Conversation(SignedAggregate):
    """One conversation. Its state keeps only what a decision reads; the rest is a read model."""

    TOPIC = "conversation"

    # --- Events ----------------------------------------------------------------------------------

    class Event(SignedAggregate.Event):
        """The base of the conversation's events."""

    class Started(Event, SignedAggregate.Started):
        """A person started the conversation; it belongs to them from now on."""

        TOPIC = "conversation.started"

    class Renamed(Event):
        """The conversation got another title."""

        TOPIC = "conversation.renamed"
        title: str

    class Archived(Event):
        """The conversation was put away; it takes no message until it is reopened."""

        TOPIC = "conversation.archived"

    class Reopened(Event):
        """The conversation was taken up again."""

        TOPIC = "conversation.reopened"

    class Erased(Event):
        """The contents were destroyed for good: this is the receipt, and nothing comes after it.

        `owner` is whose it was, `started_at` when it began (ISO 8601); `erased` counts what there was.
        """

        TOPIC = "conversation.erased"
        reason: str | None
        owner: str
        started_at: str
        erased: Mapping[str, int]

    class UserMessageReceived(Event):
        """A person said something."""

        TOPIC = "conversation.user_message_received"
        message_id: str
        content: str

    class AssistantMessageSent(Event):
        """An agent said something; `truncated` where a cancel cut it short."""

        TOPIC = "conversation.assistant_message_sent"
        message_id: str
        agent: str
        content: str
        truncated: bool
        finish_reason: str

    class ToolCallRequested(Event):
        """An agent asks for a tool; `rule` names the policy's rule that decided how it may run."""

        TOPIC = "conversation.tool_call_requested"
        call_id: str
        model_call_id: str
        tool: str
        arguments: Any
        agent: str
        requires_decision: bool
        rule: str

    class ToolCallApproved(CallEvent, Event):
        """A person lets the call run; `arguments` are the ones to run it with."""

        TOPIC = "conversation.tool_call_approved"
        arguments: Any
        feedback: str | None

    class ToolCallEdited(CallEvent, Event):
        """A person lets the call run with other arguments: `arguments_after` are the ones to run it with."""

        TOPIC = "conversation.tool_call_edited"
        arguments_before: Any
        arguments_after: Any
        feedback: str | None

    class ToolCallRejected(CallEvent, Event):
        """A person does not let the call run; the feedback is its result."""

        TOPIC = "conversation.tool_call_rejected"
        feedback: str | None

    class ToolCallClosed(CallEvent, Event):
        """The call will not run: superseded, forbidden, cancelled or expired. That is its result."""

        TOPIC = "conversation.tool_call_closed"
        reason: str
        detail: str | None

    class ToolResultReceived(CallEvent, Event):
        """The client ran the call: `result` is any JSON value, or `error` says why there is none."""

        TOPIC = "conversation.tool_result_received"
        result: Any
        error: str | None

    class PlanProposed(PlanEvent, Event):
        """An agent proposes a plan, or the next version of one."""

        TOPIC = "conversation.plan_proposed"
        goal: str
        subtasks: list[dict[str, Any]]
        agent: str

    class PlanApproved(PlanEvent, Event):
        """A person lets the plan be carried out."""

        TOPIC = "conversation.plan_approved"
        feedback: str | None

    class PlanModificationRequested(PlanEvent, Event):
        """A person sends the plan back with what should change."""

        TOPIC = "conversation.plan_modification_requested"
        feedback: str

    class PlanRejected(PlanEvent, Event):
        """A person does not want the plan."""

        TOPIC = "conversation.plan_rejected"
        feedback: str | None

    class PlanSuperseded(PlanEvent, Event):
        """The plan in review was overtaken by what the person said next."""

        TOPIC = "conversation.plan_superseded"

    class SubtaskStarted(Event):
        """An agent took up one subtask of the plan."""

        TOPIC = "conversation.subtask_started"
        plan_id: str
        subtask_id: str
        agent: str
        description: str

    class SubtaskCompleted(Event):
        """One subtask is done; all its calls are answered."""

        TOPIC = "conversation.subtask_completed"
        plan_id: str
        subtask_id: str

    class SubtaskFailed(Event):
        """One subtask could not be done."""

        TOPIC = "conversation.subtask_failed"
        plan_id: str
        subtask_id: str
        reason: str

    class PlanCompleted(PlanEvent, Event):
        """All subtasks are done."""

        TOPIC = "conversation.plan_completed"

    class PlanCancelled(PlanEvent, Event):
        """A person stopped the plan, or said something else in the middle of it."""

        TOPIC = "conversation.plan_cancelled"
        reason: str

    class PlanFailed(PlanEvent, Event):
        """The plan ended because a subtask failed."""

        TOPIC = "conversation.plan_failed"
        reason: str

    class TurnCancelled(Event):
        """A person stopped the turn; what had been said until then is kept."""

        TOPIC = "conversation.turn_cancelled"

    # --- State -----------------------------------------------------------------------------------

    @event(Started)
    def __init__(self) -> None:
        self.title: str | None = None
        self.is_archived = False
        self.calls: dict[str, OpenCall] = {}
        self.settled_calls: dict[str, SettledCall] = {}
        self.plan: Plan | None = None
        self.decided_plans: dict[str, Settlement] = {}
        self.last_message: str | None = None
        self.cancelled_in: str | None = None

    @classmethod
    def revived(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Turn kept JSON values back into calls, settlements and the plan."""
        return {
            **state,
            "calls": revived(OpenCall, state["calls"]),
            "settled_calls": revived(SettledCall, state["settled_calls"]),
            "decided_plans": revived(Settlement, state["decided_plans"]),
            "plan": Plan.from_json(state["plan"]) if state["plan"] else None,
        }

    @property
    def state(self) -> State:
        """What the conversation waits for, derived; where several hold, the first of this list."""
        if self.is_archived:
            return "archived"
        if self.plan_in("execution"):
            return "plan_in_execution"
        if self.plan_in("review"):
            return "plan_in_review"
        if any(call.undecided for call in self.calls.values()):
            return "awaiting_decision"
        return "awaiting_tool_results" if self.calls else "idle"

    def plan_in(self, status: str) -> Plan | None:
        """Return the plan when it has this status."""
        return self.plan if self.plan and self.plan.status == status else None

    def newest_version(self, plan_id: str) -> int:
        """Return the newest version of a plan that is open or was decided on, 0 where there is none."""
        keys = [*self.decided_plans, *([self.plan.key] if self.plan else [])]
        named = (key.rpartition("/") for key in keys)
        return max((int(version) for plan, _, version in named if plan == plan_id), default=0)

    @property
    def agent_may_go_on(self) -> bool:
        """Whether nothing is open that somebody else has to answer first."""
        return not self.calls and not self.plan_in("review")

    # --- Decisions: the person -------------------------------------------------------------------

    @classmethod
    def begin(cls, conversation_id: str, by: By) -> Self:
        """Start a conversation; it belongs to the actor."""
        stream = conversation_stream(conversation_id)
        return cls._create(cls.Started, id=stream, actor=by.actor, turn_id=by.turn_id)

    def rename(self, title: str, by: By) -> None:
        """Give the conversation another title; quiet where it has that title already."""
        if title != self.title:
            self.record(self.Renamed, by, title=title)

    def archive(self, by: By) -> None:
        """Put the conversation away and close what is open; quiet where that was done before."""
        if self.is_archived:
            return
        self._close_all("cancelled", by)
        self.record(self.Archived, by)

    def reopen(self, by: By) -> None:
        """Take the conversation up again; quiet where it is not archived."""
        if self.is_archived:
            self.record(self.Reopened, by)

    def receive_user_message(self, message_id: str, content: str, by: By) -> None:
        """Record what a person said; what was still open is superseded by it.

        Quiet where it is the newest message already. Raises `ConversationArchivedError`.
        """
        self._refuse_archived()
        if message_id == self.last_message:
            return
        self._close_all("superseded", by)
        self.record(self.UserMessageReceived, by, message_id=message_id, content=content)

    def receive_tool_result(self, call_id: str, result: Any, error: str | None, by: By) -> str | None:
        """Record the one result of a call that may run.

        Returns the turn that recorded the same result before, None where it is new. Raises
        `CallNotApprovedError`, `CallAlreadyAnsweredError`, `CallClosedError`, `CallNotFoundError`,
        `NothingAwaitedError` or `ConversationArchivedError`.
        """
        self._refuse_archived()
        if settled := self.settled_calls.get(call_id):
            return settled.repeated_result(call_id, fingerprint("result", result, error))
        call = self._open_call(call_id, "tool_result")
        if call.undecided:
            raise CallNotApprovedError(call_id=call_id)
        self.record(self.ToolResultReceived, by, call_id=call_id, tool=call.tool, result=result, error=error)
        return None

    def decide_call(
        self, call_id: str, decision: CallDecision, arguments: Any, feedback: str | None, by: By
    ) -> str | None:
        """Record a person's decision on a call: approve, edit (with whole arguments) or reject.

        Returns the turn that recorded the same decision before, None where it is new. Raises
        `CallAlreadyDecidedError`, `CallNeedsNoDecisionError`, `CallClosedError`,
        `CallNotFoundError`, `NothingAwaitedError` or `ConversationArchivedError`.
        """
        self._refuse_archived()
        taken = decision_fingerprint(decision, arguments, feedback)
        if settled := self.settled_calls.get(call_id):
            return settled.repeated_decision(call_id, taken)
        call = self._open_call(call_id, "hitl_decision")
        if not call.undecided:
            return call.repeated_decision(call_id, taken)
        self._record_decision(call_id, decision, arguments, feedback, by)
        return None

    def decide_plan(
        self, plan_id: str, plan_version: int, decision: PlanDecision, feedback: str | None, by: By
    ) -> str | None:
        """Record a person's decision on one version of the plan in review.

        Whatever the decision, calls that are still open are superseded. Returns the turn that
        recorded the same decision before, None where it is new. Raises `PlanAlreadyDecidedError`,
        `PlanNotFoundError`, `NothingAwaitedError` or `ConversationArchivedError`.
        """
        self._refuse_archived()
        taken = plan_fingerprint(decision, feedback)
        if before := self.decided_plans.get(plan_key(plan_id, plan_version)):
            if before.fingerprint != taken:
                raise PlanAlreadyDecidedError(plan_id=plan_id, plan_version=plan_version)
            return before.turn_id
        plan = self.plan_in("review")
        if not plan:
            raise NothingAwaitedError(state=self.state, message="plan_decision")
        if plan.key != plan_key(plan_id, plan_version):
            raise PlanNotFoundError(plan_id=plan_id, plan_version=plan_version)
        self._record_plan_decision(plan, decision, feedback, by)
        return None

    def refuse_switch(self) -> None:
        """Raise where the agent cannot be changed now: archived, or a plan in execution."""
        self._refuse_archived()
        if self.plan_in("execution"):
            raise PlanInExecutionError

    def cancel_turn(self, by: By) -> None:
        """Record that a person stopped the turn; a plan in execution ends with it. Quiet when repeated."""
        if self.cancelled_in == by.turn_id:
            return
        if self.plan_in("execution"):
            self._close_all("cancelled", by)
        self.record(self.TurnCancelled, by)

    # --- Decisions: the agent --------------------------------------------------------------------

    def send_assistant_message(
        self,
        message_id: str,
        agent: str,
        content: str,
        finish_reason: str,
        by: By,
        *,
        truncated: bool = False,
    ) -> None:
        """Record what an agent said; quiet where it is the newest message already.

        Raises `ConversationArchivedError`.
        """
        self._refuse_archived()
        if message_id == self.last_message:
            return
        self.record(
            self.AssistantMessageSent,
            by,
            message_id=message_id,
            agent=agent,
            content=content,
            truncated=truncated,
            finish_reason=finish_reason,
        )

    def request_call(self, call_id: str, call: Mapping[str, Any], by: By) -> None:
        """Record a tool call (`model_call_id`, `tool`, `arguments`, `agent`, `requires_decision`, `rule`).

        Quiet where the call is known already: it would get a second result. Raises
        `ConversationArchivedError`.
        """
        self._refuse_archived()
        if call_id not in self.calls and call_id not in self.settled_calls:
            self.record(self.ToolCallRequested, by, call_id=call_id, **call)

    def close_call(self, call_id: str, reason: CloseReason, by: By, detail: str | None = None) -> None:
        """Close an open call without a result; quiet where it is not open any more."""
        if call := self.calls.get(call_id):
            self.record(
                self.ToolCallClosed, by, call_id=call_id, tool=call.tool, reason=reason, detail=detail
            )

    def propose_plan(
        self, plan_id: str, goal: str, subtasks: Sequence[Mapping[str, Any]], agent: str, by: By
    ) -> None:
        """Record a plan, or the next version of the one sent back.

        Raises `InvalidPlanError` or `ConversationArchivedError`.
        """
        self._refuse_archived()
        checked = checked_subtasks(subtasks)
        if self.plan_in("execution") or self.plan_in("review"):
            raise InvalidPlanError(reason="another plan is still open")
        revised = self.plan_in("revision")
        self.record(
            self.PlanProposed,
            by,
            plan_id=revised.plan_id if revised else plan_id,
            plan_version=revised.version + 1 if revised else 1,
            goal=goal,
            subtasks=[task.to_json() for task in checked],
            agent=agent,
        )

    def start_subtask(self, task: Subtask, by: By) -> None:
        """Record that the next subtask is taken up; quiet where it is running already.

        Raises `NothingAwaitedError` where no plan is in execution or another subtask is due.
        """
        plan = self._executed_plan("subtask_started")
        if plan.running == task.id:
            return
        if task != plan.next_subtask():
            raise NothingAwaitedError(state=self.state, message="subtask_started")
        self.record(
            self.SubtaskStarted,
            by,
            plan_id=plan.plan_id,
            subtask_id=task.id,
            agent=task.agent,
            description=task.description,
        )

    def complete_subtask(self, by: By) -> None:
        """Record that the running subtask is done, and the plan with the last one.

        Raises `NothingAwaitedError` where no subtask is running or one of its calls is open.
        """
        plan = self._executed_plan("subtask_completed")
        if self.calls or not plan.running:
            raise NothingAwaitedError(state=self.state, message="subtask_completed")
        self.record(self.SubtaskCompleted, by, plan_id=plan.plan_id, subtask_id=plan.running)
        if self.plan and not self.plan.next_subtask():
            self.record(self.PlanCompleted, by, plan_id=plan.plan_id, plan_version=plan.version)

    def fail_subtask(self, reason: str, by: By) -> None:
        """Record that the running subtask cannot be done; the plan fails with it.

        Raises `NothingAwaitedError` where no plan is in execution.
        """
        plan = self._executed_plan("subtask_failed")
        if plan.running:
            self.record(self.SubtaskFailed, by, plan_id=plan.plan_id, subtask_id=plan.running, reason=reason)
        self._close_calls("cancelled", by)
        self.record(self.PlanFailed, by, plan_id=plan.plan_id, plan_version=plan.version, reason=reason)

    # --- What the decisions share ----------------------------------------------------------------

    def _refuse_archived(self) -> None:
        if self.is_archived:
            raise ConversationArchivedError

    def _open_call(self, call_id: str, message: str) -> OpenCall:
        if call := self.calls.get(call_id):
            return call
        if self.calls:
            raise CallNotFoundError(call_id=call_id)
        raise NothingAwaitedError(state=self.state, message=message)

    def _record_decision(
        self, call_id: str, decision: str, arguments: Any, feedback: str | None, by: By
    ) -> None:
        call = self.calls[call_id]
        fields = {"call_id": call_id, "tool": call.tool, "feedback": feedback}
        if decision == "approve":
            self.record(self.ToolCallApproved, by, **fields, arguments=call.arguments)
        elif decision == "edit":
            changed = {"arguments_before": call.arguments, "arguments_after": arguments}
            self.record(self.ToolCallEdited, by, **fields, **changed)
        else:
            self.record(self.ToolCallRejected, by, **fields)

    def _record_plan_decision(self, plan: Plan, decision: str, feedback: str | None, by: By) -> None:
        self._close_calls("superseded", by)
        kind = {
            "approve": self.PlanApproved,
            "modify": self.PlanModificationRequested,
            "reject": self.PlanRejected,
        }[decision]
        self.record(kind, by, plan_id=plan.plan_id, plan_version=plan.version, feedback=feedback)

    def _executed_plan(self, message: str) -> Plan:
        if plan := self.plan_in("execution"):
            return plan
        raise NothingAwaitedError(state=self.state, message=message)

    def _close_calls(self, reason: CloseReason, by: By) -> None:
        for call_id in list(self.calls):
            self.close_call(call_id, reason, by)

    def _close_all(self, reason: CloseReason, by: By) -> None:
        self._close_calls(reason, by)
        if not self.plan:
            return
        about = {"plan_id": self.plan.plan_id, "plan_version": self.plan.version}
        if self.plan.status == "execution":
            self.record(self.PlanCancelled, by, reason=reason, **about)
        elif self.plan.status == "review":
            self.record(self.PlanSuperseded, by, **about)

    def _settle(self, call_id: str, outcome: str, turn_id: str, decision: str | None = None) -> None:
        call = self.calls.pop(call_id)
        self.settled_calls[call_id] = SettledCall(
            outcome=outcome,
            settled_in=turn_id,
            decision=decision or call.decision,
            decided_in=turn_id if decision else call.decided_in,
        )
        forget_oldest(self.settled_calls)

    def _settle_plan(self, key: str, decision: str, feedback: str | None, turn_id: str) -> None:
        self.decided_plans[key] = Settlement(plan_fingerprint(decision, feedback), turn_id)
        forget_oldest(self.decided_plans)

    # --- Consequences ----------------------------------------------------------------------------

    @event(Renamed)
    def _on_renamed(self, title: str) -> None:
        self.title = title

    @event(Archived)
    def _on_archived(self) -> None:
        self.is_archived = True

    @event(Reopened)
    def _on_reopened(self) -> None:
        self.is_archived = False

    @event(UserMessageReceived)
    def _on_user_message_received(self, message_id: str) -> None:
        self.last_message = message_id

    @event(AssistantMessageSent)
    def _on_assistant_message_sent(self, message_id: str) -> None:
        self.last_message = message_id

    @event(TurnCancelled)
    def _on_turn_cancelled(self, turn_id: str) -> None:
        self.cancelled_in = turn_id

    @event(ToolCallRequested)
    def _on_tool_call_requested(
        self, call_id: str, tool: str, arguments: Any, requires_decision: bool
    ) -> None:
        self.calls[call_id] = OpenCall(tool, arguments, requires_decision)

    @event(ToolCallApproved)
    def _on_tool_call_approved(self, call_id: str, turn_id: str) -> None:
        taken = decision_fingerprint("approve", None, None)
        self.calls[call_id] = replace(self.calls[call_id], decision=taken, decided_in=turn_id)

    @event(ToolCallEdited)
    def _on_tool_call_edited(self, call_id: str, arguments_after: Any, turn_id: str) -> None:
        taken = decision_fingerprint("edit", arguments_after, None)
        call = replace(self.calls[call_id], arguments=arguments_after, decision=taken, decided_in=turn_id)
        self.calls[call_id] = call

    @event(ToolCallRejected)
    def _on_tool_call_rejected(self, call_id: str, feedback: str | None, turn_id: str) -> None:
        self._settle(call_id, "rejected", turn_id, decision_fingerprint("reject", None, feedback))

    @event(ToolCallClosed)
    def _on_tool_call_closed(self, call_id: str, reason: str, turn_id: str) -> None:
        self._settle(call_id, f"closed:{reason}", turn_id)

    @event(ToolResultReceived)
    def _on_tool_result_received(self, call_id: str, result: Any, error: str | None, turn_id: str) -> None:
        self._settle(call_id, fingerprint("result", result, error), turn_id)

    @event(PlanProposed)
    def _on_plan_proposed(
        self, plan_id: str, plan_version: int, subtasks: list[dict[str, Any]], agent: str
    ) -> None:
        tasks = tuple(Subtask.from_json(task) for task in subtasks)
        self.plan = Plan(plan_id, plan_version, "review", tasks, proposed_by=agent)

    @event(PlanApproved)
    def _on_plan_approved(self, plan_id: str, plan_version: int, turn_id: str) -> None:
        self._settle_plan(plan_key(plan_id, plan_version), "approve", None, turn_id)
        self.plan = self.plan and replace(self.plan, status="execution")

    @event(PlanModificationRequested)
    def _on_plan_modification_requested(
        self, plan_id: str, plan_version: int, feedback: str, turn_id: str
    ) -> None:
        self._settle_plan(plan_key(plan_id, plan_version), "modify", feedback, turn_id)
        self.plan = self.plan and replace(self.plan, status="revision")

    @event(PlanRejected)
    def _on_plan_rejected(self, plan_id: str, plan_version: int, feedback: str | None, turn_id: str) -> None:
        self._settle_plan(plan_key(plan_id, plan_version), "reject", feedback, turn_id)
        self.plan = None

    @event(SubtaskStarted)
    def _on_subtask_started(self, subtask_id: str) -> None:
        self.plan = self.plan and self.plan.started(subtask_id)

    @event(SubtaskCompleted)
    def _on_subtask_completed(self, subtask_id: str) -> None:
        self.plan = self.plan and self.plan.completed(subtask_id)

    @event(PlanSuperseded)
    def _on_plan_superseded(self) -> None:
        self.plan = None

    @event(PlanCompleted)
    def _on_plan_completed(self) -> None:
        self.plan = None

    @event(PlanCancelled)
    def _on_plan_cancelled(self) -> None:
        self.plan = None

    @event(PlanFailed)
    def _on_plan_failed(self) -> None:
        self.plan = None
