"""The parameters of an address: one that it does not have is refused, at every address of ours alike."""

from collections import Counter
from typing import Annotated, Any, Final, get_args, get_origin

from fastapi import Depends, Header, Query, Request

from api.auth import Caller
from application.errors import InvalidFilterError, InvalidMessageError


async def known_only(request: Request, _: Caller) -> None:
    """Refuse a parameter that is none: misspelled, it would be passed over as if nobody had given it.

    One that is given twice and counts once is refused, too: the first would be passed over.
    Raises `InvalidFilterError`, to those who may ask at all.
    """
    if not request.query_params:
        return
    dependants = _dependants(request.scope["route"].dependant)
    known = {field.alias: field for one in dependants for field in one.query_params}
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            listed = f"there are {', '.join(sorted(known))}" if known else "this address takes none"
            raise InvalidFilterError(name=name[:80], reason=f"there is no such filter; {listed}")
        if times > 1 and not _is_list(known[name].field_info.annotation):
            raise InvalidFilterError(name=name, reason="it stands there more than once")


def _dependants(dependant: Any) -> list[Any]:
    return [dependant, *(found for inner in dependant.dependencies for found in _dependants(inner))]


def _is_list(annotation: Any) -> bool:
    return any(get_origin(one) is list for one in (annotation, *get_args(annotation)))


KNOWN_ONLY: Final = [Depends(known_only)]


async def _last_seen(
    by_header: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    by_substitute: Annotated[
        str | None,
        Query(
            alias="lastEventId", description="The same, as substitutes of EventSource say it; before `after`."
        ),
    ] = None,
    after: Annotated[
        str | None,
        Query(
            description="The same as Last-Event-ID, for clients without headers. "
            "Of a feed it is a position: 0 from the start, absent from now."
        ),
    ] = None,
) -> str | None:
    return by_header or by_substitute or after


# The last id that the reader of a stream has seen; None where they say nothing.
LastSeen = Annotated[str | None, Depends(_last_seen)]


async def _only_key(
    request: Request,
    key: Annotated[
        str | None, Header(alias="Idempotency-Key", description="The turn's id, as turn_id in a message.")
    ] = None,
) -> str | None:
    """Refuse two that differ: one would be passed over. Raises `InvalidMessageError`."""
    if len(set(request.headers.getlist("Idempotency-Key"))) > 1:
        raise InvalidMessageError(reason="there are two Idempotency-Keys, and they are different")
    return key


IdempotencyKey = Annotated[str | None, Depends(_only_key)]
