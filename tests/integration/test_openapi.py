"""What `/openapi.json` promises of every address is what the address answers."""

import json
import re
from functools import reduce
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from api.app import create_app
from tests.serving import serving, serving_reads

API: dict[str, Any] = create_app(SimpleNamespace()).openapi()  # type: ignore[arg-type]  # nothing is asked of it
OPERATIONS = [(verb, path, said) for path, verbs in API["paths"].items() for verb, said in verbs.items()]
STREAMS = {path for _, path, _ in OPERATIONS if path.endswith(("/stream", "/feed", "/retry"))}
GIVEN = {"position": "1", "number": "1"}


@pytest.mark.parametrize(("verb", "path", "said"), OPERATIONS, ids=[f"{v} {p}" for v, p, _ in OPERATIONS])
def test_every_address_says_how_it_refuses(verb: str, path: str, said: dict[str, Any]) -> None:
    shape = "application/json" if path.startswith("/agent/") else "application/problem+json"
    for kind in ("4XX", "5XX"):
        (content,) = said["responses"][kind]["content"].items()
        assert content[0] == shape
        assert "detail" in content[1]["schema"]["required"]
    assert "422" not in said["responses"], "the framework's own errors never leave the application"


def test_streams_say_that_they_are_streams() -> None:
    for _, path, said in OPERATIONS:
        assert (list(said["responses"]["200"]["content"]) == ["text/event-stream"]) == (path in STREAMS)


def test_whatever_the_description_refers_to_is_in_it() -> None:
    referred = set(re.findall(r'"\$ref": "#/([^"]*)"', json.dumps(API)))
    assert len(referred) == 5, "one for each message"
    for place in referred:
        assert reduce(lambda there, name: there[name], place.split("/"), API)


def is_promised(answer: httpx.Response, said: dict[str, Any]) -> bool:
    """Say whether the description holds this status with this type of content."""
    promised = said["responses"]
    kind = promised.get(str(answer.status_code)) or promised[f"{answer.status_code // 100}XX"]
    return answer.headers["content-type"].split(";")[0] in kind.get("content", {"application/json": {}})


def address(path: str, name: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: GIVEN.get(found[1], name), path)


def wrong_values(said: dict[str, Any]) -> dict[str, str]:
    own = {one["name"] for one in said.get("parameters", ())}
    return {name: value for name, value in {"after": "never", "limit": "-1"}.items() if name in own}


async def test_what_an_address_answers_is_what_it_says(database_url: str) -> None:
    """Asked for things there are and things there are not, with and without a body, it keeps its word."""
    async with serving_reads(database_url, seal_s=0.05) as server:
        await server.client.say("hello", conversation_id="there")
        for verb, path, said in OPERATIONS:
            for name in ("there", "nowhere", "%7F"):
                url = address(path, name)
                body = b"{" if verb != "get" else b""
                if path in STREAMS and verb == "get" and name != "nowhere":
                    continue  # it would go on for ever
                params = wrong_values(said) if name == "nowhere" else {}
                answer = await server.client.http.request(verb, url, params=params, content=body)
                assert is_promised(answer, said), (verb, url, answer.status_code, answer.headers)


OURS = [
    (verb, path, said) for verb, path, said in OPERATIONS if path.startswith("/v1/") and path != "/v1/schema"
]


async def test_a_parameter_that_an_address_does_not_have_is_refused_and_named(database_url: str) -> None:
    async with serving(database_url, projections=False) as server:
        for verb, path, said in OURS:
            answer = await server.client.http.request(verb, address(path, "there"), params={"limt": "1"})
            known = sorted(one["name"] for one in said.get("parameters", ()) if one["in"] == "query")
            listed = f"there are {', '.join(known)}" if known else "this address takes none"
            assert (
                answer.json()["detail"] == f"The filter limt is not valid: there is no such filter; {listed}."
            )
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_filter")
    assert len(OURS) > 20


async def test_who_may_not_ask_is_told_that_first(database_url: str) -> None:
    async with serving(database_url, projections=False, identity_header="X-Subject") as server:
        for verb, path, _ in OURS:
            answer = await server.client.http.request(verb, address(path, "there"), params={"limt": "1"})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
