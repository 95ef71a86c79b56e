"""Renaming, archiving and reopening a conversation over HTTP: a turn like any other, answered as a whole."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.auth import Chatter
from api.body import parsed_body
from api.parameters import KNOWN_ONLY, IdempotencyKey
from api.reading import ConversationId, TheReads, answered
from api.reads import conversation_of
from application.errors import PositionNotReachedError
from application.frames import FAILED, Frame
from application.protocol import Amend, parsed_amendment, parsed_json
from application.replay import error_of
from application.turns import Following, TurnService
from domain.errors import ConversationNotFoundError

router = APIRouter(prefix="/v1", tags=["conversations"], dependencies=KNOWN_ONLY)

_AMENDMENT: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": Amend.model_json_schema()}}}
}


@router.patch("/conversations/{conversation_id}", openapi_extra=_AMENDMENT)
async def amend_conversation(
    conversation_id: ConversationId,
    request: Request,
    caller: Chatter,
    reads: TheReads,
    idempotency_key: IdempotencyKey,
) -> Response:
    """Rename, archive or reopen a conversation; 202 where it is stored and the list is not there yet."""
    turns: TurnService = request.app.state.turns
    asked = await parsed_body(
        request, lambda body: parsed_amendment(conversation_id, idempotency_key, parsed_json(body))
    )
    following = await turns.submit(asked, caller.subject)
    # Where nothing was to be recorded it is so already: the answer has to know all that was stored until now.
    position = await _position_of(following) or await request.app.state.log.head()
    body = {"turn_id": following.row.turn_id}
    try:
        answer = await conversation_of(reads, caller.subject, conversation_id, position)
    except (PositionNotReachedError, ConversationNotFoundError):
        late = answered(request, position, {**body, "conversation": None})
        late.status_code = 202
        return late
    return answered(request, answer.position, {**body, "conversation": answer.value})


async def _position_of(following: Following) -> int | None:
    """Read a turn to its end and return where its last event stands, None without any. Raises its failure."""
    last: Frame | None = None
    async for batch in following.frames:
        last = batch[-1] if batch else last  # an empty one is a heartbeat
    assert last, "a turn's stream ends in a terminal frame"  # noqa: S101
    if last.type == FAILED:
        raise error_of(last.body["code"], last.body["message"])
    recorded: int | None = last.body["last_position"]
    return recorded
