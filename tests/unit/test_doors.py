"""No request takes a thread: the framework has a pool of forty, and what waits for one holds up a turn."""

from collections.abc import Callable, Iterator
from inspect import iscoroutinefunction
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from api import (
    amendments,
    audit,
    audit_questions,
    console,
    erasing,
    exports,
    feeds,
    health,
    origin,
    proofs,
    reads,
    schema,
    streams,
)

DOORS = (
    amendments, audit, audit_questions, console, erasing, exports, feeds, health, origin, proofs, reads,
    schema, streams,
)  # fmt: skip
ROUTES = [route for door in DOORS for route in door.router.routes if isinstance(route, APIRoute)]


def calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    if dependant.call:
        yield dependant.call
    for inner in dependant.dependencies:
        yield from calls(inner)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{'/'.join(sorted(route.methods))} {route.path}")
def test_all_that_a_request_calls_runs_on_the_loop(route: APIRoute) -> None:
    found = list(calls(route.dependant))
    assert found
    assert [call for call in found if not iscoroutinefunction(call)] == []
