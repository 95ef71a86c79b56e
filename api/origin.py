"""The origin's door: its requests and chunks, translated over the same turns; it decides nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sse_starlette import EventSourceResponse

from api.auth import Chatter
from api.body import parsed_body
from api.errors import RETRY_AFTER_S, STATUS
from api.origin_chunks import PLAN_PREFIX, Chunks
from api.sse import HEARTBEAT, STREAMED, event_stream, one_line
from application.errors import InvalidMessageError
from application.frames import Frame
from application.protocol import Asked, PlanDecision, parsed_json, parsed_request
from application.turns import Following, TurnService
from domain.errors import MinutebookError

# What the origin called the fields of each message, and what we call them. Others are left aside, as it did.
_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "user_message": {"content": "content", "agent_type": "agent"},
    "tool_result": {"call_id": "call_id", "result": "result", "error": "error"},
    "switch_agent": {"agent_type": "agent", "reason": "reason"},
    "hitl_decision": {
        "call_id": "call_id",
        "decision": "decision",
        "modified_arguments": "arguments",
        "feedback": "feedback",
    },
    "plan_decision": {"approval_request_id": "plan_id", "decision": "decision", "feedback": "feedback"},
}
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "user_message": ("content",),
    "tool_result": ("call_id",),
    "switch_agent": ("agent_type",),
    "hitl_decision": ("call_id", "decision"),
    "plan_decision": ("approval_request_id", "decision"),
}
# What goes with a decision; its clients spoke both forms of every word.
_WITH_DECISION: Final = {"edit": "modified_arguments", "modify": "feedback"}
_WORDS: Final = {"approved": "approve", "rejected": "reject", "modified": "modify", "edited": "edit"}


class IncompleteError(Exception):
    """The message is of no known type, or lacks something; the origin answered 400, as we do here."""


class OriginRoute(APIRoute):
    """Says every refusal as the origin did: `{"detail": …}`, with the status of our table."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return the handler with refusals translated; those of the identity, too."""
        handle = super().get_route_handler()

        async def handle_as_origin(request: Request) -> Response:
            try:
                return await handle(request)
            except IncompleteError as error:
                return JSONResponse({"detail": str(error)}, 400)
            except MinutebookError as error:
                status = STATUS[error.code]
                retry = {"Retry-After": RETRY_AFTER_S[status]} if status in RETRY_AFTER_S else None
                return JSONResponse({"detail": str(error)}, status, retry)

        return handle_as_origin


router = APIRouter(tags=["origin"], route_class=OriginRoute)
_DETAIL: Final = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    **STREAMED,
    **{kind: {"content": {"application/json": {"schema": _DETAIL}}} for kind in ("4XX", "5XX")},
}


@router.post("/agent/message/stream", response_class=EventSourceResponse, responses=_RESPONSES)
async def send_message(request: Request, caller: Chatter) -> EventSourceResponse:
    """Take one of the origin's five messages and stream its turn as the origin's chunks."""
    limit = request.app.state.limits.message_bytes
    turns: TurnService = request.app.state.turns
    asked = await parsed_body(request, lambda body: parsed_request(_translated(parsed_json(body)), limit))
    following = await turns.submit(await _with_plan_version(asked, turns), caller.subject)
    return event_stream(_pieces(following), request.app.state.metrics)


async def _pieces(following: Following) -> AsyncIterator[bytes]:
    chunks = Chunks(following.row)
    yield _encoded([chunks.session_info()])
    frames: AsyncIterator[Sequence[Frame]] = following.frames
    async with aclosing(frames) as batches:  # type: ignore[type-var]  # a generator
        async for batch in batches:
            if not batch:
                yield HEARTBEAT
            elif said := [chunk for frame in batch for chunk in chunks.of(frame)]:
                yield _encoded(said)


def _encoded(chunks: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % one_line(chunk) for chunk in chunks)


# --- what came in --------------------------------------------------------------------------------


def _translated(value: Any) -> dict[str, Any]:
    """Return the origin's request in our words. Raises `IncompleteError`."""
    message = value.get("message") if isinstance(value, dict) else None
    if not isinstance(message, dict):
        raise IncompleteError("message is required")
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise IncompleteError(f"Unknown message type; it is one of {', '.join(_FIELDS)}")
    session_id = value.get("session_id") or None
    if session_id is None and kind != "user_message":
        raise IncompleteError(f"session_id is required for {kind}")
    return {"conversation_id": session_id, "message": {"type": kind, **_own_words(kind, _given(message))}}


def _given(message: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the origin's clients send for nothing: null, and empty texts beside a result.

    A result may be null or empty; it counts where no error is given.
    """
    given = {key: value for key, value in message.items() if key == "result" or value not in (None, "")}
    if "error" in given and given.get("result") is None:
        given.pop("result", None)
    return given


def _own_words(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    said = given.get("decision")
    decision = _WORDS.get(said, said) if isinstance(said, str) else said
    missing = [name for name in _REQUIRED[kind] if name not in given]
    if isinstance(decision, str) and _WITH_DECISION.get(decision) in _FIELDS[kind]:
        missing += {_WITH_DECISION[decision]} - given.keys()
    if kind == "tool_result" and not {"result", "error"} & given.keys():
        missing.append("result or error")
    if missing:
        raise IncompleteError(f"{missing[0]} is required for {kind}")
    own = {ours: given[theirs] for theirs, ours in _FIELDS[kind].items() if theirs in given}
    if "decision" in own:
        own["decision"] = decision
    return {**own, **_plan(own["plan_id"])} if kind == "plan_decision" else own


def _plan(request_id: Any) -> dict[str, Any]:
    if not isinstance(request_id, str) or not request_id.startswith(PLAN_PREFIX):
        raise InvalidMessageError(reason=f"approval_request_id reads {PLAN_PREFIX}<plan_id>")
    return {"plan_id": request_id.removeprefix(PLAN_PREFIX), "plan_version": 1}


async def _with_plan_version(asked: Asked, turns: TurnService) -> Asked:
    """Say what the origin's clients never said: which version of the plan they decide on.

    It is the newest: the one in review, or the last one decided on, so that a repeated decision is
    recognized. It is looked up before the turn and named in it as anybody else names it: should
    another version be proposed in between, the turn is refused and nothing unseen is approved.
    """
    message = asked.message
    if not isinstance(message, PlanDecision) or asked.conversation_id is None:
        return asked
    version = await turns.newest_plan_version(asked.conversation_id, message.plan_id)
    named = message.model_copy(update={"plan_version": version or message.plan_version})
    return asked.model_copy(update={"message": named})
