"""The audit over HTTP: who did what, for those who may see what everybody did."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.auth import auditing
from api.reading import Limit, MinPosition, TheReads, answered, encoded
from application.audit import AuditLog, EventFilter, EventPage, event_said, every_page
from application.audit_filter import MOST, event_filter
from application.audit_show import shown, shown_said
from application.auditing import Audit
from application.errors import InvalidFilterError
from application.queries import Answer

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(auditing)])

NDJSON: Final = "application/x-ndjson"
Filter = Annotated[str | None, Query(max_length=1000)]


def _the_audit(request: Request) -> Audit:
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
    since: Annotated[str | None, Query(alias="from", description="A time, itself included.")] = None,
    until: Annotated[str | None, Query(alias="to", description="A time, itself left out.")] = None,
    after: Annotated[int | None, Query(description="A position, itself left out.")] = None,
    before: Annotated[int | None, Query(description="A position, itself left out.")] = None,
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


def known_only(request: Request) -> None:
    """Refuse a parameter that is none: a filter that is misspelled would let everything through."""
    route = request.scope["route"]
    known = {field.alias for one in _dependants(route.dependant) for field in one.query_params}
    for name in request.query_params:
        if name not in known:
            listed = ", ".join(sorted(known))
            raise InvalidFilterError(name=name[:80], reason=f"there is no such filter; there are {listed}")


def _dependants(dependant: Any) -> list[Any]:
    return [dependant, *(found for inner in dependant.dependencies for found in _dependants(inner))]


KNOWN_ONLY: Final = [Depends(known_only)]


@router.get("/events", dependencies=KNOWN_ONLY)
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


@router.get("/events/{position}", dependencies=KNOWN_ONLY)
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
