"""docs/protocol.md names every address that can be read, with all that it can be asked."""

import re
from pathlib import Path

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from api import amendments, reads
from application.protocol import Amend

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EVERYWHERE = {"min_position"}


def on_the_page() -> dict[tuple[str, str], set[str]]:
    section = PAGE.partition("## Reading\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(GET|PATCH) (\S+)` \|(.*?)\|", section, re.MULTILINE)
    asked = {(method, path): re.sub(r"\(.*?\)", "", cell) for method, path, cell in lines}
    return {address: set(re.findall(r"`(\w+)`", cell)) for address, cell in asked.items()}


def parameters(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*(parameters(inner) for inner in dependant.dependencies))


def in_the_code() -> dict[tuple[str, str], set[str]]:
    routes = [route for door in (reads, amendments) for route in door.router.routes]
    return {
        (method, re.sub(r"\{\w+\}", "{id}", route.path)): parameters(route.dependant) - EVERYWHERE
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def test_the_page_lists_every_address_and_its_parameters() -> None:
    body = {name for name in Amend.model_fields if name != "type"}
    real = {
        (method, path): body if method == "PATCH" else names
        for (method, path), names in in_the_code().items()
    }
    assert on_the_page() == real
