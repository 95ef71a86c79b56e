"""The web console at `/`: one page, served as it is kept, with nothing built and nothing from elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

router = APIRouter(include_in_schema=False)

FOLDER: Final = Path(__file__).parent
PAGE: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
# Only what this server serves itself is run, shown or asked; nobody frames the page.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: Mapping[str, str]


def _read(path: Path) -> _File:
    content = path.read_bytes()
    headers = {
        "Content-Type": _TYPES[path.suffix],
        "ETag": f'"{sha256(content).hexdigest()[:32]}"',
        # Kept, and asked about each time: a page never runs with the scripts of another version.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return _File(content, headers)


_FILES: Final = {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in _TYPES}


@router.api_route("/", methods=["GET", "HEAD"])
async def console(request: Request) -> Response:
    """Return the page."""
    return _answer(request, _FILES[PAGE])


@router.api_route("/console/{name}", methods=["GET", "HEAD"])
async def console_file(name: str, request: Request) -> Response:
    """Return a script or a style of the page."""
    if name == PAGE or name not in _FILES:
        raise HTTPException(404)
    return _answer(request, _FILES[name])


def _answer(request: Request, file: _File) -> Response:
    """Answer with the file, or say that the browser has it already."""
    given = request.headers.get("If-None-Match", "")
    candidates = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    if file.headers["ETag"] in candidates:
        return Response(status_code=304, headers=dict(file.headers))
    return Response(file.content, headers=dict(file.headers))
