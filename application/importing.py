"""Conversations from elsewhere, said again to the aggregates: OpenAI's chats, and recorded runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from application.agents import MAX_TOOL_NAME
from application.answer import parsed_arguments
from application.ids import new_call_id, new_id
from application.protocol import is_id, storable
from domain.agent import Agent
from domain.aggregate import By
from domain.conversation import Conversation
from domain.errors import MinutebookError

RULE = "imported"
_SAID = ("text", "refusal")  # of content in parts; images and sounds are not said


class NotImportableError(MinutebookError):
    """This is not a conversation that can be imported: {reason}."""

    code = "invalid_message"


class ImportLog(Protocol):
    """Where imported conversations are stored."""

    async def store(self, conversation: Conversation, agent: Agent) -> bool:
        """Store a new conversation whole; False where it is there already, or was erased.

        Raises `NotImportableError` where another conversation has its id.
        """


@dataclass(frozen=True)
class Importing:
    """How conversations are imported: whose they become, and which agent has spoken in them."""

    subject: str
    agent: str

    def said_again(self, value: Any) -> tuple[Conversation, Agent]:
        """Say a conversation again, message by message. Raises `NotImportableError`."""
        chat = _chat(value)
        by = By(f"user:{self.subject}", f"import-{chat.conversation_id}"[:255])
        conversation = Conversation.begin(chat.conversation_id, by)
        agent = Agent.assign(chat.conversation_id, self.agent, by)
        retelling = _Retelling(conversation, by, By(f"agent:{self.agent}", by.turn_id), self.agent)
        for number, message in enumerate(chat.messages, 1):
            try:
                retelling.tell(message)
            except (MinutebookError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise NotImportableError(reason=f"message {number}: {_said(error)}") from None
        return conversation, agent


@dataclass(frozen=True)
class _Chat:
    conversation_id: str
    messages: Sequence[Mapping[str, Any]]


class _Retelling:
    """One conversation while it is said again; results find their calls by the model's ids, newest first."""

    def __init__(self, conversation: Conversation, person: By, assistant: By, agent: str) -> None:
        self._conversation = conversation
        self._person = person
        self._assistant = assistant
        self._agent = agent
        self._calls: dict[str, str] = {}
        # Calls of the time before tools have no id: the name of the function finds the newest one.
        self._functions: dict[str, str] = {}

    def tell(self, message: Mapping[str, Any]) -> None:
        """Record one message. Raises whatever is wrong with it."""
        storable(message)
        role = message["role"]
        if role == "user":
            self._conversation.receive_user_message(new_id(), _text(message["content"]), self._person)
        elif role == "assistant":
            self._tell_answer(message)
        elif role == "tool":
            self._tell_result(str(message["tool_call_id"]), message)
        elif role == "function":
            self._tell_function_result(message)
        elif role not in ("system", "developer"):  # instructions are not said in the conversation
            raise ValueError(f"there is no role {str(role)[:40]!r}")

    def _tell_answer(self, message: Mapping[str, Any]) -> None:
        calls = [*(message.get("tool_calls") or []), *self._function_calls(message)]
        said = (_text(message.get(field) or "") for field in ("content", "refusal"))
        if text := "\n\n".join(filter(None, said)):
            reason = "tool_calls" if calls else "stop"
            self._conversation.send_assistant_message(new_id(), self._agent, text, reason, self._assistant)
        elif not calls:
            raise ValueError("an assistant message has neither content nor tool_calls")
        for call in calls:
            self._tell_call(call)

    def _function_calls(self, message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return the call as it was said before there were tools, as one of today."""
        function = message.get("function_call")
        if not function:
            return []
        model_call_id = f"function_call_{len(self._calls) + 1}"
        self._functions[str(function["name"])] = model_call_id
        return [{"id": model_call_id, "function": function}]

    def _tell_call(self, call: Mapping[str, Any]) -> None:
        function = call.get("function") or call
        call_id = new_call_id()
        self._calls[str(call["id"])] = call_id
        asked = {
            "model_call_id": str(call["id"]),
            "tool": _tool_name(function["name"]),
            "arguments": _arguments(function.get("arguments")),
            "agent": self._agent,
            "requires_decision": False,
            "rule": RULE,
        }
        self._conversation.request_call(call_id, asked, self._assistant)

    def _tell_function_result(self, message: Mapping[str, Any]) -> None:
        name = str(message["name"])
        if name not in self._functions:
            raise ValueError(f"there is no call of the function {name[:80]!r} for this result")
        self._tell_result(self._functions.pop(name), message)

    def _tell_result(self, model_call_id: str, message: Mapping[str, Any]) -> None:
        call_id = self._calls.get(model_call_id, "")
        if call_id not in self._conversation.calls:
            raise ValueError(f"there is no open call {model_call_id[:80]!r} for this result")
        self._conversation.receive_tool_result(call_id, message["content"], None, self._person)


def _chat(value: Any) -> _Chat:
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list) or not value["messages"]:
        raise NotImportableError(reason="it needs a list of messages")
    if any(not isinstance(message, dict) for message in value["messages"]):
        raise NotImportableError(reason="a message is an object with a role and content")
    given = value.get("id")
    if given is None:  # the same messages are the same conversation, however often they are imported
        given = _id_of(value["messages"])
    if not isinstance(given, str) or not is_id(given):
        raise NotImportableError(reason="its id is not one that a conversation can have")
    return _Chat(given, value["messages"])


def _id_of(messages: Any) -> str:
    try:
        text = json.dumps(messages, sort_keys=True)
    except RecursionError:
        raise NotImportableError(reason="it is nested too deeply") from None
    return "chat-" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _text(content: Any) -> str:
    """Return what was said, also where it comes in parts."""
    if isinstance(content, list):
        return "".join(str(part[part["type"]]) for part in content if part.get("type") in _SAID)
    if not isinstance(content, str):
        raise ValueError("content is not a text")  # noqa: TRY004 (one kind of complaint for one line)
    return content


def _tool_name(value: Any) -> str:
    name = str(value)
    if len(name) > MAX_TOOL_NAME:
        raise ValueError(f"a tool's name has more than {MAX_TOOL_NAME} characters")
    return name


def _arguments(given: Any) -> Any:
    """Return the arguments of a call as they were said; none at all are an empty object."""
    if not isinstance(given, str):
        return {} if given is None else given
    parsed = parsed_arguments(given)
    return given if parsed is None else parsed


def _said(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)
