"""The page as it is served: strict, cacheable, and true to the words it speaks."""

import re

import pytest

from api.console import FOLDER
from api.schema import event_types
from domain.agent import Agent
from domain.conversation import Conversation
from tests.serving import serving

FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".js", ".css"))


async def test_the_page_and_its_files_are_served_with_their_types_and_a_strict_policy(
    database_url: str,
) -> None:
    types = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
    async with serving(database_url) as server:
        for path in ("/", *(f"/console/{name}" for name in FILES)):
            answer = await server.client.http.get(path)
            assert answer.status_code == 200, path
            kind = types["html" if path == "/" else path.rpartition(".")[2]]
            assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_file_the_browser_has_is_not_sent_again(database_url: str) -> None:
    async with serving(database_url) as server:
        first = await server.client.http.get("/console/console.js")
        again = await server.client.http.get(
            "/console/console.js", headers={"If-None-Match": first.headers["etag"]}
        )
        other = await server.client.http.get("/console/console.js", headers={"If-None-Match": '"older"'})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("name", ["index.html", "__init__.py", "nothing.js", "..%2Fapp.py"])
async def test_nothing_else_is_served_from_the_folder(database_url: str, name: str) -> None:
    async with serving(database_url) as server:
        answer = await server.client.http.get(f"/console/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_page_asks_nothing_of_other_hosts() -> None:
    for path in FOLDER.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            addresses = set(re.findall(r"https?://[^\s'\"]+", path.read_text()))
            assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_the_page_has_no_script_or_style_in_its_markup() -> None:
    markup = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", markup)


def test_the_page_listens_to_every_event_type() -> None:
    listed = re.search(r"EVENT_TYPES = \[(.*?)\]", (FOLDER / "fold.js").read_text(), re.DOTALL)
    assert listed
    assert set(re.findall(r'"(.+?)"', listed[1])) == {*event_types(Conversation), *event_types(Agent)}


def test_the_page_folds_every_event_type() -> None:
    consequences = (FOLDER / "fold.js").read_text().partition("const CONSEQUENCES")[2]
    folded = set(re.findall(r'^  "([\w.]+)": ', consequences, re.MULTILINE))
    assert folded == {*event_types(Conversation), *event_types(Agent)}
