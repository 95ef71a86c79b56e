"""Who asks: the one place where a request gets its identity, and where its scopes are checked."""

from dataclasses import dataclass, field
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from api.loopback import is_loopback
from application.errors import CrossSiteError, ForbiddenError, UnauthenticatedError
from application.protocol import is_subject

ALL_SCOPES: Final = frozenset({"chat", "operate", "audit"})
LOCAL: Final = "local"
CHAT: Final = "chat"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, and what they may: `chat`, `operate`, `audit`."""

    subject: str
    scopes: frozenset[str] = field(default=ALL_SCOPES)

    def need(self, scope: str) -> None:
        """Raise `ForbiddenError` without this scope."""
        if scope not in self.scopes:
            raise ForbiddenError(scope=scope)


async def identity_of(request: Request) -> Identity:
    """Return the identity of a request.

    Without configured authentication everybody is `local` (and the server listens on loopback
    only). With `MINUTEBOOK_IDENTITY_HEADER` the subject is what a proxy in front of us put there, and
    so are its scopes with `MINUTEBOOK_SCOPES_HEADER`; without that one they are `chat` alone.
    """
    header: str | None = request.app.state.identity_header
    scopes_header: str | None = request.app.state.scopes_header
    if header is None:
        _refuse_other_sites(request)
        return Identity(LOCAL)
    subject = request.headers.get(header, "")
    if not is_subject(subject):
        raise UnauthenticatedError
    given = request.headers.get(scopes_header, "") if scopes_header else CHAT
    return Identity(subject, ALL_SCOPES & set(given.split()))


def _refuse_other_sites(request: Request) -> None:
    """Raise `CrossSiteError` where a page of another site lets a browser ask, which asks as `local` too.

    Such a page may have pointed its own name at us: a server for this machine answers to no other name.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc != host:
        raise CrossSiteError
    if not request.app.state.allow_remote and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise CrossSiteError


Caller = Annotated[Identity, Depends(identity_of)]


async def chatting(caller: Caller) -> Identity:
    """Let through who may take part in conversations."""
    caller.need("chat")
    return caller


Chatter = Annotated[Identity, Depends(chatting)]


async def auditing(caller: Caller) -> Identity:
    """Let through who may see what everybody did."""
    caller.need("audit")
    return caller


Auditor = Annotated[Identity, Depends(auditing)]
