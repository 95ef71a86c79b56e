"""The five messages in (the code twin of "The five messages" in docs/protocol.md)."""

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from application.errors import InvalidJsonError, InvalidMessageError, MessageTooLargeError

MAX_DEPTH = 100
MAX_REASON = 200
ID_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9_.:-]{0,254}$"
SUBJECT_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,254}"
SUBJECT_RULE = "it is 1 to 255 characters out of A-Z a-z 0-9 _ . : @ + - and begins with none of . : @ + -"
ID_RULE = "it is 1 to 255 characters out of A-Z a-z 0-9 _ - . : and does not begin with . or :"


def storable(value: Any) -> Any:
    """Return `value` if the log can keep it for ever and every reader can read it.

    Raises `ValueError` for NUL characters, lone surrogates, numbers that are not JSON and deep nesting.
    """
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth == MAX_DEPTH and isinstance(item, dict | list):
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, str):
            _refuse_unstorable_text(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("it has a number that JSON does not have")
        elif isinstance(item, dict):
            todo.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, list):
            todo.extend((part, depth + 1) for part in item)
    return value


def _refuse_unstorable_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("it has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is no character") from None


def is_subject(text: str) -> bool:
    """Whether somebody can be called so."""
    return re.fullmatch(SUBJECT_PATTERN, text) is not None


def is_id(text: str) -> bool:
    """Whether a conversation, turn or call can have this id."""
    return re.fullmatch(ID_PATTERN, text) is not None


# Said of a message that was accepted before: its values were looked through then, each of what may be many.
_ACCEPTED: Final = {"accepted": True}


def _storable(value: Any, info: ValidationInfo) -> Any:
    return value if info.context is _ACCEPTED else storable(value)


Id = Annotated[str, Field(pattern=ID_PATTERN)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_storable)]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_storable)]
Json = Annotated[Any, AfterValidator(_storable)]


class Message(BaseModel):
    """What the messages share: nothing unknown is silently dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UserMessage(Message):
    """A person said something; starts the conversation where there is none."""

    type: Literal["user_message"]
    content: Text
    agent: Name | None = None


class ToolResult(Message):
    """The client ran a tool: `result` (any JSON, falsy values too) or `error` (text)."""

    type: Literal["tool_result"]
    call_id: Id
    result: Json = None
    error: Text | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "ToolResult":
        if ("result" in self.model_fields_set) == (self.error is not None):
            raise ValueError("give either result or error")
        return self


class SwitchAgent(Message):
    """The person wants another agent. No model is called."""

    type: Literal["switch_agent"]
    agent: Name
    reason: Text | None = None


class HitlDecision(Message):
    """A person decides on one tool call; `arguments` are the whole new ones, for edit."""

    type: Literal["hitl_decision"]
    call_id: Id
    decision: Literal["approve", "edit", "reject"]
    arguments: Annotated[dict[str, Any], AfterValidator(_storable)] | None = None
    feedback: Text | None = None

    @model_validator(mode="after")
    def _arguments_go_with_edit(self) -> "HitlDecision":
        if (self.decision == "edit") != (self.arguments is not None):
            raise ValueError("arguments go with edit, and with nothing else")
        return self


class PlanDecision(Message):
    """A person decides on one version of a plan; `feedback` is required for modify."""

    type: Literal["plan_decision"]
    plan_id: Id
    plan_version: Annotated[int, Field(ge=1, le=1_000_000)]
    decision: Literal["approve", "modify", "reject"]
    feedback: Text | None = None

    @model_validator(mode="after")
    def _modify_says_what(self) -> "PlanDecision":
        if self.decision == "modify" and not self.feedback:
            raise ValueError("modify needs feedback: what should change?")
        return self


AnyMessage = Annotated[
    UserMessage | ToolResult | SwitchAgent | HitlDecision | PlanDecision, Field(discriminator="type")
]


class Asked(Message):
    """The body of `POST /v1/messages/stream`."""

    conversation_id: Id | None = None
    turn_id: Id | None = None
    message: AnyMessage


class Amend(Message):
    """The person renames, archives or reopens a conversation: `PATCH`, and none of the five messages."""

    type: Literal["amend"]
    title: Annotated[Text, Field(max_length=200)] | None = None
    archived: bool | None = None

    @model_validator(mode="after")
    def _something_changes(self) -> "Amend":
        if self.title is None and self.archived is None:
            raise ValueError("give a title, or whether it is archived")
        return self


class AskedToAmend(Message):
    """What a `PATCH` asks for."""

    conversation_id: Id
    turn_id: Id | None = None
    message: Amend


_ASKED: TypeAdapter[Asked] = TypeAdapter(Asked)
_AMENDING: TypeAdapter[AskedToAmend] = TypeAdapter(AskedToAmend)
_MESSAGE: TypeAdapter[AnyMessage | Amend] = TypeAdapter(AnyMessage | Amend)


def parsed_json(body: bytes) -> Any:
    """Read a JSON body strictly: UTF-8, no key twice, no NaN. Raises `InvalidJsonError`."""
    if body.startswith(BOM_UTF8):
        raise InvalidJsonError(reason="it begins with a byte order mark")
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise InvalidJsonError(reason="it is nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidJsonError(reason="it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidJsonError(reason=_sayable(str(error))) from None
    except ValueError:  # Python reads no integer beyond 4300 digits: its time grows with their square
        raise InvalidJsonError(reason="a number in it has too many digits") from None


def _refuse_constant(name: str) -> None:
    raise InvalidJsonError(reason=f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJsonError(reason="an object has the same key twice")
    return found


def parsed_request(value: Any, limit: int) -> Asked:
    """Read a request. Raises `InvalidMessageError`, or `MessageTooLargeError` above `limit` bytes."""
    if not isinstance(value, dict):
        raise InvalidMessageError(reason="it is an object with a message in it")
    message = value.get("message")
    if isinstance(message, dict):
        _refuse_too_large(message, limit)  # first: to look through many values takes long
    try:
        return _ASKED.validate_python(value)
    except ValidationError as error:
        raise InvalidMessageError(reason=_first_reason(error)) from None


def parsed_amendment(conversation_id: str, turn_id: str | None, value: Any) -> AskedToAmend:
    """Read the body of a `PATCH`. Raises `InvalidMessageError`."""
    if not isinstance(value, dict) or "type" in value:
        raise InvalidMessageError(reason="it is an object with title and archived, or one of them")
    asked = {"conversation_id": conversation_id, "turn_id": turn_id, "message": {**value, "type": "amend"}}
    try:
        return _AMENDING.validate_python(asked)
    except ValidationError as error:
        raise InvalidMessageError(reason=_first_reason(error)) from None


def stored_message(payload: Mapping[str, Any]) -> AnyMessage | Amend:
    """Read a message back that was accepted before."""
    return _MESSAGE.validate_python(payload, context=_ACCEPTED)


def payload_of(message: AnyMessage | Amend) -> dict[str, Any]:
    """Return the message as it is stored with its turn: the fields that were given.

    Only a result can be null; any other field that is null is one that was not given.
    """
    given = {
        name: getattr(message, name)
        for name in type(message).model_fields
        if name in message.model_fields_set
    }
    return {name: value for name, value in given.items() if value is not None or name == "result"}


def payload_hash(payload: Mapping[str, Any]) -> str:
    """Return the digest that tells whether two messages say the same."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(text.encode()).hexdigest()


def _refuse_too_large(message: Mapping[str, Any], limit: int) -> None:
    """Raise `MessageTooLargeError` where a text, result or argument set is larger than `limit` bytes."""
    try:
        if any(_size(value) > limit for value in message.values()):
            raise MessageTooLargeError(limit=limit)
    except RecursionError:
        raise InvalidMessageError(reason="it is nested too deeply") from None


def _size(value: Any) -> int:
    """Count the bytes of a text; what is none counts as JSON without spaces, however it was sent."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode(errors="surrogatepass"))


def _first_reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # The union's tag and our own nesting are no help to the one who wrote the message.
    where = ".".join(str(part) for part in first["loc"] if part not in _TAGS)
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        said = ID_RULE
    return _sayable(f"{where}: {said}" if where else said)


def _sayable(reason: str) -> str:
    """Cut a reason short, and free it of what no answer can carry: it may quote what was sent."""
    text = reason.encode(errors="replace").decode()
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


_TAGS = {"user_message", "tool_result", "switch_agent", "hitl_decision", "plan_decision"}
