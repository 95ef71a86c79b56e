"""Erasing a conversation's contents over HTTP."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.auth import Caller
from api.body import read_body
from api.parameters import KNOWN_ONLY
from api.reading import ConversationId, answered
from application.erasing import Eraser, said
from application.errors import InvalidMessageError
from application.protocol import parsed_json, storable

router = APIRouter(prefix="/v1", tags=["conversations"], dependencies=KNOWN_ONLY)


class Erase(BaseModel):
    """Why a conversation is erased, for the receipt; who reads the log reads this."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(max_length=500), AfterValidator(storable)] | None = None


_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": Erase.model_json_schema()}}}
}


@router.post("/conversations/{conversation_id}/erase", openapi_extra=_BODY)
async def erase_conversation(conversation_id: ConversationId, request: Request, caller: Caller) -> Response:
    """Destroy the contents of a conversation for good; again: say what was done, and when it was scrubbed."""
    eraser: Eraser = request.app.state.eraser
    asked = _parsed(await read_body(request, request.app.state.limits.message_bytes))
    if "operate" not in caller.scopes:
        caller.need("chat")
    owner = None if "operate" in caller.scopes else caller.subject
    erasure = await eraser.erase(conversation_id, owner, f"user:{caller.subject}", asked.reason)
    return answered(request, erasure.position, said(erasure))


def _parsed(body: bytes) -> Erase:
    if not body:
        return Erase()
    try:
        return Erase.model_validate(parsed_json(body))
    except ValueError:
        raise InvalidMessageError(reason="it is {} or has a reason of up to 500 characters") from None
