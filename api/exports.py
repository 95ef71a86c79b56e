"""The log as a file over HTTP: streamed in constant memory, in every form."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.auth import auditing
from api.parameters import KNOWN_ONLY
from api.reading import POSITION_HEADER
from application.exporting import MEDIA_TYPES, ExportStreams, Format, Selection, selected

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(auditing), *KNOWN_ONLY])

Place = Annotated[str | None, Query(max_length=100)]


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}}},
)
async def export(
    request: Request,
    form: Annotated[Format, Query(alias="format", description="ndjson, csv or parquet")] = "ndjson",
    from_place: Annotated[Place, Query(alias="from", description="The first position, or moment.")] = None,
    until_place: Annotated[
        Place, Query(alias="until", description="The last position, or the first moment that is too late.")
    ] = None,
    conversation: Annotated[str | None, Query(max_length=255)] = None,
    types: Annotated[
        list[str] | None, Query(alias="type", description="Types of events; `*` stands for anything.")
    ] = None,
) -> Response:
    """Stream events as a file, up to the newest there is now; one that breaks off goes on with `from`."""
    exports: ExportStreams = request.app.state.exports
    selection = await exports.settled(selected(from_place, until_place, conversation, types or ()))
    name = f"minutebook-{selection.first}-{selection.last}.{form}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        POSITION_HEADER: str(selection.last),
        "Cache-Control": "no-store",
    }
    return StreamingResponse(_pieces(exports, selection, form), 200, headers, media_type=MEDIA_TYPES[form])


async def _pieces(exports: ExportStreams, selection: Selection, form: Format) -> AsyncIterator[bytes]:
    async for piece in exports.stream(selection, form):
        yield piece
