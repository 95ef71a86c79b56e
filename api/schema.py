"""The vocabulary as JSON Schema: what may come in, and every event that may come out."""

from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from fastapi import APIRouter
from pydantic import TypeAdapter

from application.protocol import Asked
from domain.agent import Agent
from domain.aggregate import MinuteEvent, SignedAggregate
from domain.conversation import Conversation

router = APIRouter(prefix="/v1", tags=["schema"])
_ENVELOPE = {field.name for field in fields(MinuteEvent)} | {"originator_topic"}  # type: ignore[arg-type]


@router.get("/schema")
async def schema() -> dict[str, Any]:
    """Return the JSON Schema of the request and of every event's `data`, by event type."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_SCHEMA}


def event_types(aggregate: type[SignedAggregate]) -> dict[str, type[MinuteEvent]]:
    """Return the event classes of an aggregate by their stored names."""
    kinds = (kind for kind in vars(aggregate).values() if isinstance(kind, type))
    return {kind.TOPIC: kind for kind in kinds if issubclass(kind, MinuteEvent) and hasattr(kind, "TOPIC")}


def _data_schema(kind: type[MinuteEvent]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    own = [field for field in fields(kind) if field.name not in _ENVELOPE]  # type: ignore[arg-type]
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "properties": {field.name.rstrip("_"): TypeAdapter(hints[field.name]).json_schema() for field in own},
        "required": [field.name.rstrip("_") for field in own if field.default is MISSING],
    }


_EVENTS = {**event_types(Conversation), **event_types(Agent)}
_SCHEMA = {
    "request": Asked.model_json_schema(),
    "events": {name: _data_schema(kind) for name, kind in sorted(_EVENTS.items())},
}
