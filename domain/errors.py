"""Every refusal the house can answer with: a class, a sentence and a code.

The docstring of a class is its sentence, with the instance's details filled in.
HTTP statuses live in `api/errors.py`; nothing here knows about them.
"""

from typing import ClassVar


class MinutebookError(Exception):
    """Something went wrong inside Minutebook."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, **details: object) -> None:
        self.details = details
        super().__init__((type(self).__doc__ or "").format(**details))


class ConversationNotFoundError(MinutebookError):
    """There is no conversation with this id."""

    code = "conversation_not_found"


class ConversationErasedError(MinutebookError):
    """The contents of this conversation were erased; it takes nothing more."""

    code = "conversation_erased"


class ConversationArchivedError(MinutebookError):
    """The conversation is archived; reopen it before you go on."""

    code = "conversation_archived"


class NothingAwaitedError(MinutebookError):
    """The conversation is {state}; it does not wait for a {message}."""

    code = "nothing_awaited"


class CallNotFoundError(MinutebookError):
    """No tool call with the id {call_id} is known in this conversation."""

    code = "call_not_found"


class CallNotApprovedError(MinutebookError):
    """A person has to decide on the call {call_id} before it can have a result."""

    code = "call_not_approved"


class CallAlreadyAnsweredError(MinutebookError):
    """The call {call_id} already has a different result."""

    code = "call_already_answered"


class CallAlreadyDecidedError(MinutebookError):
    """The call {call_id} has already been decided differently."""

    code = "call_already_decided"


class CallNeedsNoDecisionError(MinutebookError):
    """The call {call_id} may run as it is; nobody has to decide on it."""

    code = "call_needs_no_decision"


class PlanNotFoundError(MinutebookError):
    """No plan with the id {plan_id} and the version {plan_version} is known in this conversation."""

    code = "plan_not_found"


class PlanAlreadyDecidedError(MinutebookError):
    """Version {plan_version} of the plan {plan_id} has already been decided differently."""

    code = "plan_already_decided"


class PlanInExecutionError(MinutebookError):
    """A plan is being carried out; the agent changes with its subtasks until it ends."""

    code = "plan_in_execution"


class InvalidPlanError(MinutebookError):
    """The plan cannot be carried out: {reason}."""

    code = "invalid_plan"


class SwitchLimitReachedError(MinutebookError):
    """The agent of this conversation has been switched {limit} times, which is the limit."""

    code = "switch_limit_reached"


class CallClosedError(MinutebookError):
    """The call {call_id} was closed ({reason}) and takes neither a decision nor a result any more."""

    code = "call_closed"
