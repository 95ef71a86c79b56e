"""The one table of error codes: which status each has, and how it is said before a stream opens."""

from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from domain.errors import MinutebookError

# docs/protocol.md prints this table; a test compares them, and asks that no code is missing.
STATUS: Final[Mapping[str, int]] = {
    "invalid_json": 400,
    "unauthenticated": 401,
    "cross_site": 403,
    "forbidden": 403,
    "agent_not_found": 404,
    "call_not_found": 404,
    "conversation_not_found": 404,
    "event_not_found": 404,
    "plan_not_found": 404,
    "turn_not_found": 404,
    "not_found": 404,
    "not_sealed": 404,
    "method_not_allowed": 405,
    "call_already_answered": 409,
    "call_already_decided": 409,
    "call_closed": 409,
    "call_needs_no_decision": 409,
    "call_not_approved": 409,
    "conflict": 409,
    "conversation_archived": 409,
    "nothing_awaited": 409,
    "plan_already_decided": 409,
    "plan_in_execution": 409,
    "switch_limit_reached": 409,
    "turn_id_reused": 409,
    "turn_in_progress": 409,
    "turn_not_retryable": 409,
    "conversation_erased": 410,
    "message_too_large": 413,
    "invalid_cursor": 422,
    "invalid_filter": 422,
    "invalid_message": 422,
    "invalid_plan": 422,
    "answer_limit_reached": 500,
    "internal_error": 500,
    "model_call_limit_reached": 500,
    "turn_lost": 500,
    "turn_time_limit_reached": 500,
    "model_auth": 502,
    "model_refused": 502,
    "model_unavailable": 502,
    "shutting_down": 503,
    "store_unavailable": 503,
    "turn_abandoned": 503,
    "position_not_reached": 503,
    "model_rate_limited": 503,
    "model_timeout": 504,
}
RETRY_AFTER_S: Final = {503: "2"}
METHODS: Final = ("GET", "HEAD", "POST", "PATCH")
MEDIA_TYPE: Final = "application/problem+json"
_SHAPE: Final = {
    "type": "object",
    "required": ["type", "status", "code", "title", "detail", "retryable"],
    "properties": {
        "type": {"const": "about:blank"},
        "status": {"type": "integer"},
        "code": {"enum": list(STATUS)},
        "title": {"type": "string"},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "turn_id": {"type": "string", "description": "The turn that is in the way."},
    },
}
# How `/openapi.json` describes every error of every address.
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    kind: {"description": whose, "content": {MEDIA_TYPE: {"schema": _SHAPE}}}
    for kind, whose in {
        "4XX": "The request cannot be done as it is.",
        "5XX": "The server, its database or a model could not do it.",
    }.items()
}

_OF_THE_FRAMEWORK: Final = {
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take this method."),
}
_NOT_VALID: Final = ("invalid_message", "The message is not valid: it is no HTTP request for this address.")

logger = structlog.get_logger("minutebook.http")


def problem(code: str, detail: str, **more: Any) -> JSONResponse:
    """Say an error as `application/problem+json` (RFC 9457)."""
    status = STATUS[code]
    title = code.replace("_", " ").capitalize()
    body = {"type": "about:blank", "status": status, "code": code, "title": title, "detail": detail, **more}
    headers = {"Retry-After": RETRY_AFTER_S[status]} if status in RETRY_AFTER_S else {}
    if code == "shutting_down":
        headers["Connection"] = "close"  # the next try is a new connection, which a balancer sends elsewhere
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let every error of the application leave it in this one shape."""
    app.add_exception_handler(MinutebookError, _known)
    app.add_exception_handler(HTTPException, _of_the_framework)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MinutebookError)  # noqa: S101 (the handler is registered for it)
    # What a client can act on beside the sentence: which turn is in its way.
    more = {"turn_id": error.details["turn_id"]} if "turn_id" in error.details else {}
    return problem(error.code, str(error), retryable=error.retryable, **more)


async def _of_the_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 (the handler is registered for it)
    code, sentence = _OF_THE_FRAMEWORK.get(error.status_code, _NOT_VALID)
    answer = problem(code, sentence, retryable=False)
    answer.headers.update(error.headers or {})
    if code == "method_not_allowed":
        answer.headers["Allow"] = ", ".join(_methods_of(request))
    return answer


def _methods_of(request: Request) -> list[str]:
    """Say which methods an address takes: the framework names those of the first of its routes alone."""
    return [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (the handler is registered for it)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem("invalid_message", f"The request is not valid: {where}: {first['msg']}", retryable=False)


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    logger.error("request_broke", exc_info=error)
    return problem("internal_error", str(MinutebookError()), retryable=False)
