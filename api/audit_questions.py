"""The auditor's questions over HTTP: what was so then, who approved what, which turns did not end well."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from api.audit import Filter, TheAudit
from api.auth import auditing
from api.parameters import KNOWN_ONLY
from api.reading import ConversationId, Limit, MinPosition, TheReads, answered
from application.audit import AuditLog
from application.audit_filter import MOST, event_filter, place_of, time_of
from application.audit_questions import (
    DECISIONS,
    Questions,
    RequestFilter,
    Some,
    approvals,
    rejected_and_retried,
)
from application.audit_show import turn_said
from application.auditing import Audit
from application.errors import InvalidFilterError
from application.past import as_of, changes
from application.queries import Answer
from application.reading import Reads

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(auditing), *KNOWN_ONLY])

NOW: Final = str(MOST)
Place = Annotated[str, Query(max_length=100, description="A position of the log, or a time.")]


@router.get("/conversations/{conversation_id}")
async def show_conversation(
    conversation_id: ConversationId, request: Request, audit: TheAudit, at: Place = NOW
) -> Response:
    """Return a conversation's state and transcript as they were at a position or a time."""
    past = await as_of(audit.log, audit.pasts, conversation_id, place_of("at", at))
    return answered(request, past.position, {"conversation": past})


@router.get("/conversations/{conversation_id}/changes")
async def show_changes(
    conversation_id: ConversationId,
    request: Request,
    audit: TheAudit,
    first: Annotated[str, Query(alias="from", max_length=100)] = "0",
    last: Annotated[str, Query(alias="to", max_length=100)] = NOW,
) -> Response:
    """Return what changed in a conversation after one position or time, up to another."""
    places = place_of("from", first), place_of("to", last)
    found = await changes(audit.log, audit.pasts, conversation_id, *places)
    return answered(request, found.last, {"changes": found})


async def request_filter(
    conversation: Filter = None,
    tool: Filter = None,
    decision: Filter = None,
    actor: Filter = None,
    since: Annotated[str | None, Query(alias="from")] = None,
    until: Annotated[str | None, Query(alias="to")] = None,
    after: Annotated[int, Query(description="Only after this position.")] = 0,
) -> RequestFilter:
    """Return the filter that these words ask for. Raises `InvalidFilterError`."""
    same = event_filter(
        conversation=conversation, tool=tool, actor=actor, since=since, until=until, after=after
    )
    if decision not in (None, *DECISIONS):
        raise InvalidFilterError(name="decision", reason=f"it is one of {', '.join(DECISIONS)}")
    return RequestFilter(conversation, same.tool, decision, same.actor, same.since, same.until, after)


Wanted = Annotated[RequestFilter, Depends(request_filter)]
Question = Callable[[AuditLog, Questions, RequestFilter, int], Awaitable[Answer[Some]]]


@dataclass(frozen=True)
class Asked:
    """What both questions about calls and plans are asked with."""

    request: Request
    audit: Audit
    reads: Reads
    wanted: RequestFilter
    limit: int
    min_position: int

    async def answered(self, name: str, question: Question) -> Response:
        """Answer with what was found, under this name."""
        log, questions = self.audit.log, self.audit.questions
        answer = await self.reads.patience.read(
            "requests", self.min_position, lambda: question(log, questions, self.wanted, self.limit)
        )
        body = {name: answer.value.items, "next": answer.value.next}
        return answered(self.request, answer.position, body)


async def _asked(
    request: Request,
    audit: TheAudit,
    reads: TheReads,
    wanted: Wanted,
    limit: Limit = 50,
    min_position: MinPosition = 0,
) -> Asked:
    return Asked(request, audit, reads, wanted, limit, min_position)


Asking = Annotated[Asked, Depends(_asked)]


@router.get("/approvals")
async def list_approvals(asked: Asking) -> Response:
    """Return every decision: who, when, what was asked, what was changed, what came of it."""
    return await asked.answered("approvals", approvals)


@router.get("/retried")
async def list_retried(asked: Asking) -> Response:
    """Return the rejected calls after which the same tool was tried again, and that call."""
    return await asked.answered("retried", rejected_and_retried)


@router.get("/turns")
async def list_turns(
    request: Request,
    audit: TheAudit,
    state: Literal["failed", "abandoned"] | None = None,
    running_at: Annotated[str | None, Query(description="A time.")] = None,
    before: Annotated[str | None, Query(description="Accepted before this time.")] = None,
    limit: Limit = 50,
) -> Response:
    """Return the turns that failed, were abandoned by a server that died, or ran at a time."""
    at = time_of("running_at", running_at)
    if (state is None) == (at is None):
        raise InvalidFilterError(name="state", reason="give either state or running_at")
    until = time_of("before", before)
    if at is not None:
        page = await audit.questions.running(at, until, limit)
    else:
        page = await audit.questions.ended_badly(str(state), until, limit)
    head = await audit.log.head()
    return answered(request, head, {"turns": list(map(turn_said, page.items)), "more": page.more})
