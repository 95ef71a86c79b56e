"""The calls of a conversation: which tools agents asked for, what people decided, and what came of it."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eventsourcing.domain import event

from domain.aggregate import By, SignedAggregate
from domain.errors import CallNotApprovedError, CallNotFoundError, NothingAwaitedError
from domain.values import (
    CallDecision,
    CloseReason,
    OpenCall,
    SettledCall,
    State,
    decision_fingerprint,
    fingerprint,
    forget_oldest,
    revived,
)


class CallEvent(SignedAggregate.Event):
    """What the events about one call share."""

    call_id: str
    tool: str


class WithCalls(SignedAggregate):
    """The part of a conversation that is about tool calls: open until each has its one result."""

    # --- Events ----------------------------------------------------------------------------------

    class Event(SignedAggregate.Event):
        """The base of the conversation's events."""

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

    # --- State -----------------------------------------------------------------------------------

    def __init__(self) -> None:
        self.calls: dict[str, OpenCall] = {}
        self.settled_calls: dict[str, SettledCall] = {}

    @classmethod
    def revived(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Turn kept JSON values back into calls."""
        return {
            **super().revived(state),
            "calls": revived(OpenCall, state["calls"]),
            "settled_calls": revived(SettledCall, state["settled_calls"]),
        }

    @property
    @abstractmethod
    def state(self) -> State:
        """What the conversation waits for."""

    @abstractmethod
    def refuse_archived(self) -> None:
        """Raise `ConversationArchivedError` where the conversation was put away."""

    # --- Decisions: the person -------------------------------------------------------------------

    def receive_tool_result(self, call_id: str, result: Any, error: str | None, by: By) -> str | None:
        """Record the one result of a call that may run.

        Returns the turn that recorded the same result before, None where it is new. Raises
        `CallNotApprovedError`, `CallAlreadyAnsweredError`, `CallClosedError`, `CallNotFoundError`,
        `NothingAwaitedError` or `ConversationArchivedError`.
        """
        self.refuse_archived()
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
        self.refuse_archived()
        taken = decision_fingerprint(decision, arguments, feedback)
        if settled := self.settled_calls.get(call_id):
            return settled.repeated_decision(call_id, taken)
        call = self._open_call(call_id, "hitl_decision")
        if not call.undecided:
            return call.repeated_decision(call_id, taken)
        self._record_decision(call_id, decision, arguments, feedback, by)
        return None

    # --- Decisions: the agent --------------------------------------------------------------------

    def request_call(self, call_id: str, call: Mapping[str, Any], by: By) -> None:
        """Record a tool call (`model_call_id`, `tool`, `arguments`, `agent`, `requires_decision`, `rule`).

        Quiet where the call is known already: it would get a second result. Raises
        `ConversationArchivedError`.
        """
        self.refuse_archived()
        if call_id not in self.calls and call_id not in self.settled_calls:
            self.record(self.ToolCallRequested, by, call_id=call_id, **call)

    def close_call(self, call_id: str, reason: CloseReason, by: By, detail: str | None = None) -> None:
        """Close an open call without a result; quiet where it is not open any more."""
        if call := self.calls.get(call_id):
            self.record(
                self.ToolCallClosed, by, call_id=call_id, tool=call.tool, reason=reason, detail=detail
            )

    # --- What the decisions share ----------------------------------------------------------------

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

    def _close_calls(self, reason: CloseReason, by: By) -> None:
        for call_id in list(self.calls):
            self.close_call(call_id, reason, by)

    # --- Consequences ----------------------------------------------------------------------------

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

    def _settle(self, call_id: str, outcome: str, turn_id: str, decision: str | None = None) -> None:
        call = self.calls.pop(call_id)
        self.settled_calls[call_id] = SettledCall(
            outcome=outcome,
            settled_in=turn_id,
            decision=decision or call.decision,
            decided_in=turn_id if decision else call.decided_in,
        )
        forget_oldest(self.settled_calls)
