"""The plans of a conversation: proposed, decided on, and carried out subtask by subtask."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventsourcing.domain import event

from domain.aggregate import By, SignedAggregate
from domain.conversation_calls import WithCalls
from domain.errors import InvalidPlanError, NothingAwaitedError, PlanAlreadyDecidedError, PlanNotFoundError
from domain.plan import Plan, Subtask, checked_subtasks, plan_key
from domain.values import CloseReason, PlanDecision, Settlement, forget_oldest, plan_fingerprint, revived


class PlanEvent(SignedAggregate.Event):
    """What the events about one version of a plan share."""

    plan_id: str
    plan_version: int


class WithPlans(WithCalls):
    """The part of a conversation that is about plans: one is open at a time, and its subtasks make calls."""

    # --- Events ----------------------------------------------------------------------------------

    class Event(WithCalls.Event):
        """The base of the conversation's events."""

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

    # --- State -----------------------------------------------------------------------------------

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan | None = None
        self.decided_plans: dict[str, Settlement] = {}

    @classmethod
    def revived(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Turn kept JSON values back into calls, settlements and the plan."""
        return {
            **super().revived(state),
            "decided_plans": revived(Settlement, state["decided_plans"]),
            "plan": Plan.from_json(state["plan"]) if state["plan"] else None,
        }

    def plan_in(self, status: str) -> Plan | None:
        """Return the plan when it has this status."""
        return self.plan if self.plan and self.plan.status == status else None

    def newest_version(self, plan_id: str) -> int:
        """Return the newest version of a plan that is open or was decided on, 0 where there is none."""
        keys = [*self.decided_plans, *([self.plan.key] if self.plan else [])]
        named = (key.rpartition("/") for key in keys)
        return max((int(version) for plan, _, version in named if plan == plan_id), default=0)

    # --- Decisions: the person -------------------------------------------------------------------

    def decide_plan(
        self, plan_id: str, plan_version: int, decision: PlanDecision, feedback: str | None, by: By
    ) -> str | None:
        """Record a person's decision on one version of the plan in review.

        Whatever the decision, calls that are still open are superseded. Returns the turn that
        recorded the same decision before, None where it is new. Raises `PlanAlreadyDecidedError`,
        `PlanNotFoundError`, `NothingAwaitedError` or `ConversationArchivedError`.
        """
        self.refuse_archived()
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

    # --- Decisions: the agent --------------------------------------------------------------------

    def propose_plan(
        self, plan_id: str, goal: str, subtasks: Sequence[Mapping[str, Any]], agent: str, by: By
    ) -> None:
        """Record a plan, or the next version of the one sent back.

        Raises `InvalidPlanError` or `ConversationArchivedError`.
        """
        self.refuse_archived()
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

    def _close_all(self, reason: CloseReason, by: By) -> None:
        self._close_calls(reason, by)
        if not self.plan:
            return
        about = {"plan_id": self.plan.plan_id, "plan_version": self.plan.version}
        if self.plan.status == "execution":
            self.record(self.PlanCancelled, by, reason=reason, **about)
        elif self.plan.status == "review":
            self.record(self.PlanSuperseded, by, **about)

    # --- Consequences ----------------------------------------------------------------------------

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

    def _settle_plan(self, key: str, decision: str, feedback: str | None, turn_id: str) -> None:
        self.decided_plans[key] = Settlement(plan_fingerprint(decision, feedback), turn_id)
        forget_oldest(self.decided_plans)
