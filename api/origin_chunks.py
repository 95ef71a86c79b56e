"""The origin's chunks: what its IDE reads, made from the frames of a turn."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from application.frames import COMMITTED, DELTA, FAILED, STATUS, Frame
from application.ports import TurnRow

PLAN_PREFIX: Final = "plan-approval-"
EMPTY: Final[Mapping[str, Any]] = {
    "type": None,
    "content": None,
    "token": None,
    "is_final": False,
    "session_id": None,
    "call_id": None,
    "tool_name": None,
    "arguments": None,
    "requires_approval": None,
    "approval_request_id": None,
    "plan_id": None,
    "plan_summary": None,
    "error": None,
    "metadata": None,
}

Chunk = dict[str, Any]


class Chunks:
    """Makes the chunks of one stream: `session_info` first, and exactly one final chunk, the last.

    A client of the origin stops reading at the final chunk. So what it has to act on (calls, a plan
    to decide on) is kept until the turn's end is known, comes after everything else, and only the
    last of it is final. A call that is closed already is not announced: nobody is to run it.
    """

    def __init__(self, row: TurnRow) -> None:
        self._row = row
        self._calls: dict[str, Chunk] = {}
        self._plan: Chunk | None = None
        self._translate: Mapping[str, Callable[[Mapping[str, Any]], Sequence[Chunk]]] = {
            DELTA: self._delta,
            STATUS: self._status,
            COMMITTED: self._committed,
            FAILED: self._failed,
            "conversation.assistant_message_sent": self._message,
            "agent.switched": self._switched,
            "conversation.tool_call_requested": self._requested,
            "conversation.tool_call_approved": self._approved,
            "conversation.tool_call_edited": self._edited,
            "conversation.plan_proposed": self._proposed,
            "conversation.plan_rejected": partial(self._decided, "plan_rejected"),
            "conversation.plan_modification_requested": partial(self._decided, "plan_modification_requested"),
            "conversation.subtask_completed": self._subtask_completed,
            "conversation.plan_completed": partial(self._plan_ended, "execution_completed"),
            "conversation.plan_failed": partial(self._plan_ended, "status"),
            "conversation.plan_cancelled": partial(self._plan_ended, "status"),
        }

    def session_info(self) -> Chunk:
        """Return the first chunk; the turn's id in it is a way to read the turn at the other door."""
        return self._chunk("session_info", metadata={"turn_id": self._row.turn_id})

    def of(self, frame: Frame) -> Sequence[Chunk]:
        """Return the chunks that say what this frame says, in order; often none."""
        translate = self._translate.get(frame.type)
        return translate(frame.body) if translate else ()

    def _chunk(self, type_: str, **fields: Any) -> Chunk:
        return {**EMPTY, "type": type_, "session_id": self._row.conversation_id, **fields}

    # --- while the turn runs ---------------------------------------------------------------------

    def _delta(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        return [self._chunk("assistant_message", token=body["text"])]

    def _status(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        return [self._chunk("status", content=body["text"], metadata=body.get("detail"))]

    # --- what was committed ----------------------------------------------------------------------

    def _message(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        return [self._chunk("assistant_message", content=body["data"]["content"])]

    def _switched(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        data = body["data"]
        who = {"from_agent": data["from"], "to_agent": data["to"], "reason": data["reason"]}
        return [self._chunk("agent_switched", metadata=who)]

    def _requested(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        data = body["data"]
        return self._keep_call(data, data["arguments"], data["requires_decision"])

    def _approved(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        return self._keep_call(body["data"], body["data"]["arguments"], False)

    def _edited(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        return self._keep_call(body["data"], body["data"]["arguments_after"], False)

    def _keep_call(self, data: Mapping[str, Any], arguments: Any, asks: bool) -> Sequence[Chunk]:
        call_id = data["call_id"]
        about = {"call_id": call_id, "tool_name": data["tool"], "arguments": arguments}
        self._calls[call_id] = self._chunk("tool_call", **about, requires_approval=asks)
        return ()

    def _proposed(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        data = body["data"]
        about = {
            "plan_id": data["plan_id"],
            "plan_summary": data["goal"],
            "metadata": {"plan_version": data["plan_version"], "subtasks": data["subtasks"]},
        }
        request_id = f"{PLAN_PREFIX}{data['plan_id']}"
        asking = {"approval_request_id": request_id, "requires_approval": True}
        self._plan = self._chunk("plan_approval_required", **about, **asking)
        return [self._chunk("plan_created", **about)]

    def _decided(self, type_: str, body: Mapping[str, Any]) -> Sequence[Chunk]:
        data = body["data"]
        about = {"plan_id": data["plan_id"], "metadata": {"plan_version": data["plan_version"]}}
        return [self._chunk(type_, content=data["feedback"], **about)]

    def _subtask_completed(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        data = body["data"]
        about = {"subtask_id": data["subtask_id"]}
        return [self._chunk("subtask_completed", plan_id=data["plan_id"], metadata=about)]

    def _plan_ended(self, type_: str, body: Mapping[str, Any]) -> Sequence[Chunk]:
        data = body["data"]
        about = {"plan_version": data["plan_version"], "reason": data.get("reason")}
        return [self._chunk(type_, content=_PLAN_ENDS[type_], plan_id=data["plan_id"], metadata=about)]

    # --- the end ---------------------------------------------------------------------------------

    def _committed(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        waiting = body["waiting_for"]
        last = [chunk for call_id, chunk in self._calls.items() if call_id in waiting["calls"]]
        if self._plan and waiting["plan"]:
            last.append(self._plan)
        if not last:
            last = [self._chunk("done", metadata={"state": body["state"], "waiting_for": waiting})]
        return [*last[:-1], {**last[-1], "is_final": True}]

    def _failed(self, body: Mapping[str, Any]) -> Sequence[Chunk]:
        about = {"code": body["code"], "retryable": body["retryable"], "turn_id": body["turn_id"]}
        return [self._chunk("error", error=body["message"], metadata=about, is_final=True)]


_PLAN_ENDS: Final = {
    "execution_completed": "The plan is carried out.",
    "status": "The plan has ended before it was carried out.",
}
