"""The refusals and failures of a turn, beside those of the domain (`domain/errors.py`)."""

from domain.errors import MinutebookError


class InvalidMessageError(MinutebookError):
    """The message is not valid: {reason}."""

    code = "invalid_message"


class InvalidJsonError(MinutebookError):
    """This is not valid JSON: {reason}."""

    code = "invalid_json"


class MessageTooLargeError(MinutebookError):
    """The message is larger than {limit} bytes."""

    code = "message_too_large"


class AgentNotFoundError(MinutebookError):
    """There is no agent called {agent}; the agents are {agents}."""

    code = "agent_not_found"


class TurnNotFoundError(MinutebookError):
    """There is no turn with this id."""

    code = "turn_not_found"


class TurnInProgressError(MinutebookError):
    """The turn {turn_id} of this conversation is still running; wait for it or cancel it."""

    code = "turn_in_progress"
    retryable = True


class TurnIdReusedError(MinutebookError):
    """The turn id {turn_id} was already used for a different message; take a new one."""

    code = "turn_id_reused"


class TurnNotRetryableError(MinutebookError):
    """The turn {turn_id} is {state}; only failed and abandoned turns can be retried."""

    code = "turn_not_retryable"


class TurnAbandonedError(MinutebookError):
    """The server that ran this turn went away; nothing was stored, and the turn can be retried."""

    code = "turn_abandoned"
    retryable = True


class TurnLostError(MinutebookError):
    """The turn took longer than its lease and was given up; nothing was stored."""

    code = "turn_lost"
    retryable = True


class ConflictError(MinutebookError):
    """Somebody else wrote to this conversation at the same moment; nothing was stored."""

    code = "conflict"
    retryable = True


class StoreUnavailableError(MinutebookError):
    """The database does not answer; send it again under the same turn id, and retry it where it failed."""

    code = "store_unavailable"
    retryable = True


class ShuttingDownError(MinutebookError):
    """The server is shutting down; try again in a moment."""

    code = "shutting_down"
    retryable = True


class ModelCallLimitReachedError(MinutebookError):
    """The agent needed more than {limit} model calls in one turn, which is the limit."""

    code = "model_call_limit_reached"
    retryable = True


class TurnTimeLimitReachedError(MinutebookError):
    """The turn took longer than {limit} seconds, which is the limit."""

    code = "turn_time_limit_reached"
    retryable = True


class ModelError(MinutebookError):
    """The model failed."""

    code = "model_unavailable"


class ModelUnavailableError(ModelError):
    """The model could not be reached or broke off its answer."""

    code = "model_unavailable"
    retryable = True


class ModelRateLimitedError(ModelError):
    """The model's provider is limiting our rate; try again in a while."""

    code = "model_rate_limited"
    retryable = True


class ModelRefusedError(ModelError):
    """The model's provider refused the request."""

    code = "model_refused"


class ModelTimeoutError(ModelError):
    """The model did not answer in time."""

    code = "model_timeout"
    retryable = True


class ModelAuthError(ModelError):
    """The model's provider did not accept our credentials; the operator has to look."""

    code = "model_auth"


class AnswerLimitReachedError(ModelError):
    """The model's answer is more than {limit}, which is the limit."""

    code = "answer_limit_reached"
    retryable = True


class UnauthenticatedError(MinutebookError):
    """The request does not say who asks."""

    code = "unauthenticated"


class CrossSiteError(MinutebookError):
    """A page of another site may not use this server in its reader's name."""

    code = "cross_site"


class ForbiddenError(MinutebookError):
    """You need the scope {scope} for this."""

    code = "forbidden"


class InvalidCursorError(MinutebookError):
    """The cursor is not valid: {reason}."""

    code = "invalid_cursor"


class NotSealedError(MinutebookError):
    """{what} is not sealed yet; {size} events are."""

    code = "not_sealed"


class PositionNotReachedError(MinutebookError):
    """What you ask for stands at position {position} and has not yet got to {min_position}."""

    code = "position_not_reached"
    retryable = True


class EventNotFoundError(MinutebookError):
    """There is no event at position {position}."""

    code = "event_not_found"


class InvalidFilterError(MinutebookError):
    """The filter {name} is not valid: {reason}."""

    code = "invalid_filter"
