"""Every error has one code, one status, one sentence, and the documentation's table says the same."""

import json
import re
from pathlib import Path
from string import Formatter

import pytest

import api.app  # noqa: F401 (loads whatever defines errors of its own)
import application.errors
import domain.errors
from api.errors import STATUS, problem
from application.replay import error_kinds
from domain.errors import MinutebookError

REPOSITORY = Path(__file__).parent.parent.parent
# These are said of HTTP itself, where no use case was reached.
OF_HTTP = {"not_found", "method_not_allowed"}
INTERNALS = re.compile(
    r"\b(sql|psycopg|postgres\w*|traceback|python|exception|stack|localhost|key)\b|[/\\]\w", re.IGNORECASE
)

Kind = type[MinutebookError]


def kinds() -> list[Kind]:
    """Return every error of the domain and of the application."""
    modules = (domain.errors.__name__, application.errors.__name__)
    return [kind for kind in error_kinds() if kind.__module__ in modules]


def names_in(kind: Kind) -> list[str]:
    """Return what the sentence of an error is filled with."""
    return [name for _, name, _, _ in Formatter().parse(kind.__doc__ or "") if name]


def table() -> dict[str, tuple[int, str, bool]]:
    """Read the table of the documentation: code to status, sentence and whether to try again."""
    text = (REPOSITORY / "docs" / "protocol.md").read_text().partition("<!-- errors -->")[2]
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (.*) \| (yes|no) \|$", text.partition("<!-- /errors -->")[0], re.MULTILINE
    )
    return {code: (int(status), said.replace("`", ""), again == "yes") for code, status, said, again in rows}


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    assert {kind.code for kind in kinds()} | OF_HTTP == set(STATUS)


def test_no_status_is_anything_but_an_error() -> None:
    assert all(400 <= status <= 599 for status in STATUS.values())


def test_a_code_belongs_to_one_sentence_of_those_that_are_raised() -> None:
    leaves = [kind for kind in kinds() if not kind.__subclasses__()]
    codes = [kind.code for kind in leaves]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_sentence_can_be_filled_and_shows_no_internals(kind: Kind) -> None:
    error = kind(**dict.fromkeys(names_in(kind), "GIVEN"))
    said = str(error)
    assert kind.__name__.endswith("Error")
    assert said.endswith(".")
    assert "{" not in said
    assert "\n" not in said
    assert said.count("GIVEN") == len(names_in(kind))
    assert not INTERNALS.search(said.replace("<attempt>.<seq>", "")), said


@pytest.mark.parametrize("code", STATUS)
def test_every_error_is_said_in_the_same_shape(code: str) -> None:
    response = problem(code, "A sentence.", retryable=False)
    body = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert response.status_code == body["status"] == STATUS[code]
    assert (body["code"], body["detail"], body["type"]) == (code, "A sentence.", "about:blank")
    assert body["title"]
    assert ("retry-after" in response.headers) == (STATUS[code] == 503)


def test_the_table_of_the_documentation_is_the_one_of_the_code() -> None:
    documented = table()
    assert {code: status for code, (status, _, _) in documented.items()} == dict(STATUS)
    for kind in kinds():
        if kind is application.errors.ModelError:
            continue  # only its subclasses are raised
        said = (kind.__doc__ or "").partition("\n")[0]
        assert documented[kind.code][1:] == (said, kind.retryable), kind.__name__
