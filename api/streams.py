"""The write side over HTTP: send a message, watch a turn, stop it, try it again."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from sse_starlette import EventSourceResponse

from api.auth import Chatter
from api.body import parsed_body
from api.parameters import KNOWN_ONLY, IdempotencyKey, LastSeen
from api.reading import ConversationId
from api.sse import STREAMED, batches_encoded, event_stream
from application.errors import InvalidMessageError, TurnNotFoundError
from application.ports import TurnRow
from application.protocol import Asked, is_id, parsed_json, parsed_request
from application.replay import failure_of
from application.turns import Following, TurnService
from domain.errors import ConversationNotFoundError

router = APIRouter(prefix="/v1", tags=["turns"], dependencies=KNOWN_ONLY)

_SCHEMA = Asked.model_json_schema(ref_template="#/components/schemas/{model}")
# The five messages, by their names: for the components of `/openapi.json`.
MESSAGES: dict[str, Any] = _SCHEMA.pop("$defs")
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}
}


async def _known_id(turn_id: Annotated[str, Path()]) -> str:
    """Return the id of the address; one that no turn can have is no turn."""
    if not is_id(turn_id):
        raise TurnNotFoundError
    return turn_id


TurnId = Annotated[str, Depends(_known_id)]


@router.post("/messages/stream", openapi_extra=_BODY, response_class=EventSourceResponse, responses=STREAMED)
async def send_message(
    request: Request,
    caller: Chatter,
    idempotency_key: IdempotencyKey,
) -> EventSourceResponse:
    """Send one of the five messages and stream its turn."""
    limit = request.app.state.limits.message_bytes
    asked = await parsed_body(
        request, lambda body: parsed_request(_with_key(parsed_json(body), idempotency_key), limit)
    )
    return _streamed(request, await _turns(request).submit(asked, caller.subject))


@router.get("/conversations/{conversation_id}/turn")
async def get_running_turn(
    conversation_id: ConversationId, request: Request, caller: Chatter
) -> dict[str, Any]:
    """Return the turn that runs in a conversation, for who comes while it is silent; null where none runs."""
    row = await _turns(request).running_in(conversation_id, caller.subject)
    if row is None and await request.app.state.log.owner_of(conversation_id) != caller.subject:
        raise ConversationNotFoundError
    return {"turn": turn_body(row) if row else None}


@router.get("/turns/{turn_id}")
async def get_turn(turn_id: TurnId, request: Request, caller: Chatter) -> dict[str, Any]:
    """Return how a turn stands."""
    return turn_body(await _turns(request).status(turn_id, caller.subject))


@router.get("/turns/{turn_id}/stream", response_class=EventSourceResponse, responses=STREAMED)
async def watch_turn(
    turn_id: TurnId, request: Request, caller: Chatter, last_seen: LastSeen
) -> EventSourceResponse:
    """Attach to a turn, or read it again, from a cursor on."""
    following = await _turns(request).attach(turn_id, caller.subject, last_seen)
    return _streamed(request, following)


@router.post(
    "/turns/{turn_id}/cancel", responses={202: {"description": "It was asked to stop, and still runs."}}
)
async def cancel_turn(
    turn_id: TurnId, request: Request, response: Response, caller: Chatter
) -> dict[str, Any]:
    """Stop a turn, keeping what was said; answers how it ended. Twice is once.

    202 where it has not ended yet: ask again, or read its stream, which says the end.
    """
    row = await _turns(request).cancel(turn_id, caller.subject)
    response.status_code = 202 if row.state == "running" else 200
    return turn_body(row)


@router.post("/turns/{turn_id}/retry", response_class=EventSourceResponse, responses=STREAMED)
async def retry_turn(turn_id: TurnId, request: Request, caller: Chatter) -> EventSourceResponse:
    """Run a failed or abandoned turn again and stream it."""
    return _streamed(request, await _turns(request).retry(turn_id, caller.subject))


def turn_body(row: TurnRow) -> dict[str, Any]:
    """Say a turn as JSON; times are ISO 8601 in UTC."""
    error = None
    if row.state in ("failed", "abandoned"):
        failure = failure_of(row)
        error = {"code": failure.code, "message": str(failure), "retryable": failure.retryable}
    return {
        "turn_id": row.turn_id,
        "conversation_id": row.conversation_id,
        "kind": row.kind,
        "state": row.state,
        "attempt": row.attempt,
        "accepted_at": row.accepted_at.isoformat(),
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
        "first_position": row.first_position,
        "last_position": row.last_position,
        "error": error,
    }


def _turns(request: Request) -> TurnService:
    service: TurnService = request.app.state.turns
    return service


def _streamed(request: Request, following: Following) -> EventSourceResponse:
    return event_stream(batches_encoded(following.frames), request.app.state.metrics)


def _with_key(value: Any, key: str | None) -> Any:
    """Put the header's turn id into the body; both may be there when they say the same."""
    if key is None or not isinstance(value, dict):
        return value
    if value.get("turn_id") not in (None, key):
        raise InvalidMessageError(reason="turn_id and Idempotency-Key are different")
    return {**value, "turn_id": key}
