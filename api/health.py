"""Is it alive, is it ready, what does it count."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

router = APIRouter(tags=["operations"])


@router.get("/health/live")
async def live(request: Request) -> dict[str, str]:
    """Answer as long as the process runs; `node` (its id and a random part) tells it from others."""
    return {"status": "ok", "node": request.app.state.node}


@router.get("/health/ready", responses={503: {"description": "The same, and what is not there."}})
async def ready(request: Request) -> JSONResponse:
    """Ask the database; 503 while it does not answer or the server is shutting down.

    `projections` names the read models that have stopped; what is said is still kept, so that is no 503.
    """
    detail: dict[str, Any] = await request.app.state.readiness()
    is_ready = all(detail[what] == "ok" for what in ("server", "database"))
    return JSONResponse({"status": "ok" if is_ready else "unavailable", **detail}, 200 if is_ready else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Return what is counted, as Prometheus reads it."""
    text, content_type = await request.app.state.exposition()
    return Response(text, headers={"Content-Type": content_type})
