"""The audit over HTTP: who did what, for those who may see what everybody did."""

from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.auth import auditing
from api.parameters import KNOWN_ONLY
from api.reading import Limit, MinPosition, TheReads, answered, encoded
from application.audit import AuditLog, EventFilter, EventPage, event_said, every_page
from application.audit_filter import MOST, event_filter
from application.audit_show import shown, shown_said
from application.auditing import Audit
from application.queries import Answer

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(auditing), *KNOWN_ONLY])

NDJSON: Final = "application/x-ndjson"
Filter = Annotated[str | None, Query(max_length=1000)]


async def _the_audit(request: Request) -> Audit:
    audit: Audit = request.app.state.audit
    return audit


TheAudit = Annotated[Audit, Depends(_the_audit)]


async def _wanted(
    conversation: Filter = None,
    stream: Filter = None,
    types: Annotated[
        list[str], Query(alias="type", description="A type, `*` for anything; may be given again.")
    ] = [],  # noqa: B006 (the framework copies it)
    actor: Filter = None,
    agent: Filter = None,
    tool: Filter = None,
    turn: Filter = None,
    since: Annotated[
        str | None, Query(alias="from", description="From this time on, as 2026-03-01T09:00.")
    ] = None,
    until: Annotated[str | None, Query(alias="to", description="Before this time.")] = None,
    after: Annotated[int | None, Query(description="Only after this position.")] = None,
    before: Annotated[int | None, Query(description="Only before this position.")] = None,
    text: Annotated[str | None, Query(description="Looked for in what the events say.")] = None,
    order: Literal["asc", "desc"] = "asc",
) -> EventFilter:
    return event_filter(
        conversation=conversation,
        stream=stream,
        types=types,
        actor=actor,
        agent=agent,
        tool=tool,
        turn=turn,
        since=since,
        until=until,
        after=after,
        before=before,
        text=text,
        order=order,
    )


@router.get("/events")
async def search_events(
    request: Request,
    audit: TheAudit,
    reads: TheReads,
    wanted: Annotated[EventFilter, Depends(_wanted)],
    limit: Limit = 50,
    min_position: MinPosition = 0,
) -> Response:
    """Return the events that fit all filters; with `Accept: application/x-ndjson` all of them, a line each.

    A stream ignores `limit`, and ends at the head of the log as it was at the beginning.
    """
    if NDJSON in request.headers.get("accept", ""):
        return await _streamed(audit.log, wanted)
    answer = await reads.patience.read("requests", min_position, lambda: audit.log.page(wanted, limit))
    body = {"events": list(map(event_said, answer.value.events)), "next": answer.value.next}
    return answered(request, answer.position, body)


@router.get("/events/{position}")
async def show_event(
    position: Annotated[int, Path(ge=0, le=MOST)], request: Request, audit: TheAudit
) -> Response:
    """Return one event, its turn with all its events, and what led to it."""
    return answered(request, position, shown_said(await shown(audit.log, position)))


async def _streamed(audit: AuditLog, wanted: EventFilter) -> Response:
    pages = every_page(audit, wanted)
    first = await anext(pages)  # what is wrong with the filter is said before the stream opens

    async def lines() -> AsyncIterator[bytes]:
        yield _lines(first)
        async for page in pages:
            yield _lines(page)

    return StreamingResponse(lines(), media_type=NDJSON, headers={"X-Accel-Buffering": "no"})


def _lines(answer: Answer[EventPage]) -> bytes:
    return b"".join(encoded(event_said(event)) + b"\n" for event in answer.value.events)
