"""The documentation is complete and true: what is there is written down, and nothing else is."""

import inspect
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import typer

from api.app import create_app
from api.cli import cli
from api.settings import PREFIX, Settings
from application.product import VERSION
from application.protocol import Asked
from application.use_cases import USE_CASES
from infrastructure.metrics import PrometheusMetrics
from tests.pages import REPOSITORY, anchors, blocks, links, page, pages, prose, rows, tracked

REFERENCE = page("reference.md")
README = page("README.md")
STORE = REPOSITORY / "api" / "bootstrap" / "store.py"
PAGES = [pytest.param(path, id=path.name) for path in pages()]


def written(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- the tables of the reference
def test_every_setting_is_documented_with_its_default_and_nothing_else_is() -> None:
    on_the_page = {
        name: (cells[0].strip("`"), cells[1]) for name, cells in rows(REFERENCE, "settings").items()
    }
    assert on_the_page == {
        f"{PREFIX}{name.upper()}": (default_of(field.default), field.description)
        for name, field in Settings.model_fields.items()
    }


def default_of(value: object) -> str:
    """Return a default as an operator would write it."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_setting_that_does_not_exist(path: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", written(path))) <= known


def commands() -> dict[str, set[str]]:
    """Return the options and arguments of every command, as they are typed."""
    return dict(commands_of("minutebook", typer.main.get_command(cli)))


def commands_of(name: str, command: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield a command with its options; of a group of commands each of them."""
    if not hasattr(command, "commands"):
        yield name, {option for one in command.params for option in one.opts}
        return
    for part, inner in command.commands.items():
        yield from commands_of(f"{name} {part}", inner)


def test_every_command_and_option_is_documented_and_nothing_else_is() -> None:
    on_the_page = {
        name: set(re.findall(r"`([\w-]+)`", cells[0])) for name, cells in rows(REFERENCE, "commands").items()
    }
    assert on_the_page == commands()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_command_that_does_not_exist(path: Path) -> None:
    named = re.findall(r"(?:`|bin/|^)(minutebook (?:audit )?[a-z][a-z-]*)", written(path), re.MULTILINE)
    assert set(named) <= commands().keys() | {"minutebook audit"}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_make_target_that_does_not_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", written(REPOSITORY / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", written(path), re.MULTILINE)) <= targets


def endpoints() -> set[str]:
    app = create_app(SimpleNamespace())  # type: ignore[arg-type]  # nothing is asked of it
    return {f"{verb.upper()} {path}" for path, verbs in app.openapi()["paths"].items() for verb in verbs}


def test_every_endpoint_is_documented_and_nothing_else_is() -> None:
    # The console is for browsers, and stands in no description of the API.
    assert set(rows(REFERENCE, "endpoints")) == endpoints() | {"GET /"}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_endpoint_that_does_not_exist(path: Path) -> None:
    named = re.findall(r"`((?:GET|POST|PATCH|PUT|DELETE) /[^`?\s]*)", written(path))
    known = {shape_of(one) for one in [*endpoints(), "GET /", "GET /console/{name}"]}
    assert {shape_of(one) for one in named} <= known


def shape_of(endpoint: str) -> str:
    return re.sub(r"\{\w+\}", "{}", endpoint)


def test_every_metric_is_documented_with_its_type_and_labels_and_nothing_else_is() -> None:
    metrics = PrometheusMetrics()
    documented = {
        name.removesuffix("_total"): (cells[0], set(re.findall(r"`(\w+)`", cells[1])))
        for name, cells in rows(REFERENCE, "metrics").items()
    }
    in_the_code = {
        one._name: (one._type, set(one._labelnames))
        for one in vars(metrics).values()
        if hasattr(one, "_labelnames")
    }
    assert documented == in_the_code


def test_every_log_line_of_the_application_is_documented_with_its_level_and_nothing_else_is() -> None:
    found = re.compile(r"\blogger\.(\w+)\(\s*\"(\w+)\"")
    in_the_code = {
        name: "error" if level == "exception" else level
        for package in ("api", "application", "infrastructure")
        for path in (REPOSITORY / package).rglob("*.py")
        for level, name in found.findall(written(path))
    }
    documented = {name: cells[0] for name, cells in rows(REFERENCE, "log-lines").items()}
    assert documented == in_the_code


def test_every_connection_of_a_server_is_documented_by_its_name() -> None:
    """Names are given to `arguments(…)` and `connect(…)`; the recorder is for the library's users."""
    names = {
        name
        for path in (REPOSITORY / "infrastructure").rglob("*.py")
        if path.name != "recorder.py"
        for name in re.findall(
            r"arguments\(\"minutebook (\w+)\"|connect\(self\._url, \"(\w+)\"", written(path)
        )
    }
    names |= {(name, "") for name in re.findall(r"name=\"minutebook (\w+)\"", written(STORE))}
    table = page("operations.md").partition("## Connections")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) - {"minutebook"}
    assert {first or second for first, second in names} | {"migrate"} == documented


@pytest.mark.parametrize("path", PAGES)
def test_a_page_names_no_metric_that_does_not_exist(path: Path) -> None:
    known = set(rows(REFERENCE, "metrics"))
    looks_like_one = (
        r"\b((?:sse|turns|turn|append|model|projection)_[a-z_]*(?:_total|_seconds|_saves|_events))\b"
    )
    assert set(re.findall(looks_like_one, written(path))) <= known


def helps(command: Any) -> Iterator[str]:
    """Return what a command and those below it say of themselves and of their options."""
    yield command.help or ""
    yield from (getattr(parameter, "help", None) or "" for parameter in command.params)
    for below in getattr(command, "commands", {}).values():
        yield from helps(below)


def test_no_help_has_a_name_in_angle_brackets_which_are_taken_for_markup() -> None:
    said = list(helps(typer.main.get_command(cli)))
    assert len(said) > 100
    assert [text for text in said if re.search(r"<\w", text)] == []


# ---------------------------------------------------------------- the words of the wire
def test_every_message_has_its_file_its_function_and_its_class() -> None:
    for kind in get_args(Asked.model_fields["message"].annotation):
        name = get_args(kind.model_fields["type"].annotation)[0]
        module = import_module(f"application.{name}")
        use_case = getattr(module, name)
        assert USE_CASES[name] is use_case
        assert kind.__name__ == "".join(word.capitalize() for word in name.split("_"))
        assert inspect.get_annotations(use_case)["message"] is kind


# ---------------------------------------------------------------- the tree
def test_what_the_readme_says_where_to_change_is_there() -> None:
    table = README.partition("## Where to change what")[2].partition("\n## ")[0]
    paths = re.findall(r"`((?:domain|application|infrastructure|api|docs|tests)/[\w./]*)`", table)
    assert len(paths) > 8
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_the_layers_are_drawn_as_they_are_held() -> None:
    contracts = tomllib.loads(written(REPOSITORY / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    assert next(one["layers"] for one in contracts if one["type"] == "layers") == [
        "api", "infrastructure", "application", "domain",
    ]  # fmt: skip
    assert "`api → application → domain` and `infrastructure → application → domain`" in README
    (allowed,) = {one for c in contracts for one in c.get("ignore_imports", []) if "**" not in one}
    assert allowed == "api.bootstrap.* -> infrastructure"
    assert "only `api/bootstrap/` knows both sides" in README


def test_the_package_has_the_version_that_it_says() -> None:
    assert tomllib.loads(written(REPOSITORY / "pyproject.toml"))["project"]["version"] == VERSION


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(written(REPOSITORY / "pyproject.toml"))["project"]
    needed = {match[0] for one in project["dependencies"] if (match := re.match(r"[\w-]+", one))}
    needed |= {"psycopg-pool"}  # an extra of psycopg
    table = page("decisions.md").partition("## Dependencies")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in first_cells for name in re.findall(r"`([\w-]+)`", cell)} == needed


@pytest.mark.parametrize("path", PAGES)
def test_a_diagram_has_no_semicolon_which_would_end_its_line(path: Path) -> None:
    diagrams = [block.text for block in blocks(written(path)) if block.language == "mermaid"]
    assert ";" not in "".join(diagrams)


@pytest.mark.parametrize("path", PAGES)
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for link in links(written(path)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}"
        assert not anchor or anchor in anchors(written(target)), f"{path.name} links to {link}"


def test_every_page_is_in_the_readmes_list() -> None:
    listed = set(links(README))
    assert {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")} <= listed


def test_what_a_reader_writes_here_is_no_part_of_the_checks() -> None:
    """A program copied from a page failed `make check`, and an export's keys could have been committed."""
    named = re.compile(
        r"<!-- (\w+\.\w+) -->|(?<=[^-=]> )([\w-]+\.\w+)|--to ([\w-]+\.\w+)|--export ([\w-]+\.\w+)"
    )
    found = {next(filter(None, groups)) for path in pages() for groups in named.findall(written(path))}
    assert {"talk.py", "server.log", "whole.ndjson", "monday.note"} <= found
    written_here = found | {"whole.ndjson.keys", "log.ndjson.manifest.json"}
    command = ["git", "check-ignore", *written_here]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == written_here


@pytest.mark.parametrize("path", PAGES)
def test_every_block_says_what_it_is_in(path: Path) -> None:
    known = {
        "sh",
        "bash",
        "text",
        "console",
        "json",
        "python",
        "javascript",
        "toml",
        "sql",
        "mermaid",
        "nginx",
        "ini",
    }
    unnamed = [block.line for block in blocks(written(path)) if block.language not in known]
    assert unnamed == [] or path.name == "protocol.md"
    assert "```" not in prose(written(path))


@pytest.mark.parametrize("kind", ["a machine's path", "a registry"])
def test_no_tracked_text_names(kind: str) -> None:
    patterns = {
        "a machine's path": r"(?<![\w./])/(?:root|tmp/v|home/\w+/\w|Users/\w+)\b|(?<![\w./])/" + "work/",
        "a registry": r"https?://[^\s\"']*(?:pypi|registry\.npm|files\.pythonhosted)",
    }
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in tracked()
        if path != Path(__file__) and (text := text_of(path)) is not None
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(patterns[kind], line)
    ]
    assert found == []


def text_of(path: Path) -> str | None:
    try:
        return written(path)
    except UnicodeDecodeError:
        return None
