"""What goes wrong at a provider, in our words: its own may quote the request, and with it secrets."""

import logging
import re

from pydantic_ai import exceptions

from application import errors
from infrastructure.models.router import ModelNotFoundError, ModelSettingError

_log = logging.getLogger(__name__)

_BY_KIND: tuple[tuple[type[Exception], type[errors.ModelError]], ...] = (
    (TimeoutError, errors.ModelTimeoutError),
    (exceptions.ModelTimeoutError, errors.ModelTimeoutError),
    (exceptions.ModelRequestTimeout, errors.ModelTimeoutError),
    (exceptions.ModelRateLimitError, errors.ModelRateLimitedError),
    (exceptions.ModelQuotaExceededError, errors.ModelRateLimitedError),
    (exceptions.ModelAuthenticationError, errors.ModelAuthError),
    (exceptions.ModelRequestRejectedError, errors.ModelRefusedError),
    (exceptions.ContentFilterError, errors.ModelRefusedError),
    (ModelNotFoundError, errors.ModelRefusedError),
    (exceptions.UserError, errors.ModelAuthError),
)


def failure_of(error: Exception) -> errors.ModelError:
    """Return what a turn is told of whatever a library raised."""
    if isinstance(error, errors.ModelError):
        return error
    status = getattr(error, "status_code", None)
    _log.warning("A model call failed: %s, status %s", type(error).__name__, status)
    by_status = _by_status(status) if isinstance(status, int) else None
    by_kind = (failure for kind, failure in _BY_KIND if isinstance(error, kind))
    return (by_status or next(by_kind, errors.ModelUnavailableError))()


def _by_status(status: int) -> type[errors.ModelError] | None:
    known = {401: errors.ModelAuthError, 403: errors.ModelAuthError, 408: errors.ModelTimeoutError}
    known |= {429: errors.ModelRateLimitedError}
    if status in known:
        return known[status]
    if 400 <= status < 500:
        return errors.ModelRefusedError
    return errors.ModelUnavailableError if status >= 500 else None


def setting_error(name: str, error: Exception) -> ModelSettingError:
    """Say what the operator has to do, in our words."""
    if isinstance(error, ModelSettingError):
        return error
    key = re.search(r"`([A-Z][A-Z0-9_]+)`", str(error))
    if key and "Unknown model" not in str(error):
        return ModelSettingError(f"The model {name} needs the environment variable {key[1]}.")
    return ModelNotFoundError(name)
