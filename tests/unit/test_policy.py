"""Nothing an agent calls gets past its profile, and what no rule names is for a human."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from application.agents import PROPOSE_PLAN, SWITCH_AGENT, AgentProfile, Rule
from application.language_model import Tool
from application.policy import Policy, may_write, stays_inside
from infrastructure.agents_file import load_agents

ROSTER = load_agents()
POLICY = Policy(ROSTER.rules)


def tool(name: str, *arguments: str) -> Tool:
    return Tool(name, "", {"type": "object", "properties": {argument: {} for argument in arguments}})


def agent(*tools: Tool, writes: tuple[str, ...] = ("*",)) -> AgentProfile:
    return AgentProfile("agent", "", "", tools=tools, writes=writes)


@pytest.mark.parametrize(
    ("name", "called", "arguments", "kind", "rule"),
    [
        ("coder", "write_file", {"path": "src/a.py", "content": ""}, "ask", "changing"),
        ("coder", "edit_file", {"path": "a.py", "old_text": "/etc", "new_text": ".."}, "ask", "changing"),
        ("coder", "move_file", {"source": "a.py", "destination": "b/a.py"}, "ask", "changing"),
        ("coder", "delete_file", {"path": "a.py"}, "ask", "changing"),
        ("coder", "execute_command", {"command": "make test"}, "ask", "executing"),
        ("coder", "read_file", {"path": "a.py"}, "free", "reading"),
        ("ask", "search_files", {"pattern": "x"}, "free", "reading"),
        ("ask", "write_file", {"path": "a.md"}, "forbidden", "unknown_tool"),
        ("debug", "execute_command", {"command": "pytest"}, "ask", "executing"),
        ("architect", "write_file", {"path": "docs/plan.md"}, "ask", "changing"),
        ("architect", "write_file", {"path": "docs/plan.py"}, "forbidden", "file_patterns"),
        ("architect", "write_file", {"path": "README.MD"}, "forbidden", "file_patterns"),
        ("architect", "create_folder", {"path": "docs"}, "forbidden", "file_patterns"),
        ("coder", "move_file", {"source": "a.py", "destination": "../a.py"}, "forbidden", "file_patterns"),
        ("coder", "move_file", {"source": "/etc/passwd", "destination": "a"}, "forbidden", "file_patterns"),
        ("coder", "write_file", {"content": "no path"}, "forbidden", "file_patterns"),
        ("coder", "write_file", {"path": 5}, "forbidden", "file_patterns"),
        ("coder", "write_file", {"path": "a.py", "filePath": "/etc/passwd"}, "forbidden", "file_patterns"),
        ("coder", "no_such_tool", {}, "forbidden", "unknown_tool"),
        ("coder", PROPOSE_PLAN.name, {}, "forbidden", "unknown_tool"),
        ("architect", PROPOSE_PLAN.name, {}, "free", "built_in"),
        ("ask", SWITCH_AGENT.name, {"agent": "coder"}, "free", "built_in"),
    ],
)
def test_the_default_set_judges_as_its_file_says(
    name: str, called: str, arguments: dict[str, object], kind: str, rule: str
) -> None:
    verdict = POLICY.judge(ROSTER.get(name), called, arguments)

    assert (verdict.kind, verdict.rule) == (kind, rule)
    assert bool(verdict.reason) == (kind == "forbidden")


@pytest.mark.parametrize(
    ("called", "kind"),
    [
        ("book_reservation", "ask"),
        ("cancel_reservation", "ask"),
        ("update_reservation_flights", "ask"),
        ("send_certificate", "ask"),
        ("get_user_details", "free"),
        ("search_direct_flight", "free"),
        ("list_all_airports", "free"),
        ("calculate", "free"),
        ("think", "free"),
        ("juggle", "ask"),
    ],
)
def test_tools_of_an_operator_are_judged_by_their_names(called: str, kind: str) -> None:
    assert (
        POLICY.judge(agent(tool(called, "destination"), writes=()), called, {"destination": "/SEA"}).kind
        == kind
    )


def test_what_no_rule_names_is_for_a_human_by_default() -> None:
    assert POLICY.judge(agent(tool("juggle")), "juggle", {}).rule == "default"


def test_the_first_rule_that_matches_decides() -> None:
    policy = Policy(
        [
            Rule("tests", ("run",), "free", {"command": "make test"}),
            Rule("root", ("run",), "forbidden", {"command": "*sudo*"}),
            Rule("running", ("run",), "ask"),
        ]
    )
    rules = [
        policy.judge(agent(tool("run")), "run", {"command": c}).rule for c in ("make test", "sudo x", "ls")
    ]

    assert rules == ["tests", "root", "running"]


def test_a_rule_on_an_argument_does_not_match_where_the_argument_is_absent() -> None:
    policy = Policy([Rule("any", ("run",), "free", {"command": "*"})])

    assert policy.judge(agent(tool("run")), "run", {}).rule == "default"


def test_an_argument_that_is_not_a_text_is_compared_as_json() -> None:
    policy = Policy([Rule("forced", ("run",), "forbidden", {"force": "true"})])

    assert policy.judge(agent(tool("run")), "run", {"force": True}).kind == "forbidden"


@pytest.mark.parametrize(
    "path", [".env", "./.env", "a/../.env", "A\\.ENV", "/srv/app/.env", ".env.", "．env"]
)
def test_a_rule_that_forbids_a_file_knows_it_by_every_spelling(path: str) -> None:
    policy = Policy([Rule("secrets", ("read_*",), "forbidden", {"path": ".env"}), Rule("r", ("*",), "free")])

    assert policy.judge(agent(tool("read_file", "path")), "read_file", {"path": path}).rule == "secrets"


@pytest.mark.parametrize("path", ["docs/../secret", "/docs/a", "docs\\a", "src/a"])
def test_a_rule_that_frees_a_folder_frees_nothing_outside_it(path: str) -> None:
    policy = Policy([Rule("docs", ("read_*",), "free", {"path": "docs/**"})])

    assert policy.judge(agent(tool("read_file", "path")), "read_file", {"path": path}).rule == "default"
    assert policy.judge(agent(tool("read_file", "path")), "read_file", {"path": "docs/a/b"}).rule == "docs"


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("*.md", "a.md", True),
        ("*.md", "deep/er/a.md", True),
        ("*.md", "a.md/b.py", False),
        ("docs/*.md", "docs/a.md", True),
        ("docs/*.md", "./docs//a.md", True),
        ("docs/*.md", "docs/deep/a.md", False),
        ("docs/*.md", "Docs/a.md", False),
        ("docs/**/*.md", "docs/a.md", True),
        ("docs/**/*.md", "docs/very/deep/a.md", True),
        ("docs/**", "docs", True),
        ("docs/**", "src/docs/a", False),
        ("*", "anything/at.all", True),
    ],
)
def test_patterns_cover_what_they_say(pattern: str, path: str, covered: bool) -> None:
    assert may_write(path, (pattern,)) is covered


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/a.md",
        "//host/a.md",
        "~/a.md",
        "../a.md",
        "a/../../b.md",
        "docs\\..\\..\\a.md",
        "C:a.md",
        "C:/a.md",
        "evil.exe:a.md",
        "file:///a.md",
        "a.md\0.sh",
        "a.md\n",
        "%2e%2e/a.md",
        "%252e%252e%252fa.md",
        "．．/a.md",
        "‥/a.md",
        "..／a.md",
        ".. /a.md",
        ".../a.md",
        "a.md.",
        "a.md ",
        "a\u202emd.md",
        "\ud800.md",
    ],
)
def test_a_way_out_is_never_covered(path: str) -> None:
    assert not may_write(path, ("*", "**", "**/*", "*.md", "docs/**"))


_PIECES = st.sampled_from(
    [
        "..",
        ".",
        "/",
        "\\",
        "docs",
        "a.md",
        "%2e",
        "%2F",
        "．",
        "／",
        "‥",
        " ",
        "C:",
        "~",
        "\0",
        "é",
        ".md",
        "∕",
    ]
)
_PATHS = st.one_of(st.text(max_size=40), st.lists(_PIECES, max_size=10).map("".join))


@given(_PATHS)
def test_no_traversal_slips_through(path: str) -> None:
    if not stays_inside(path):
        return
    assert ".." not in path.replace("\\", "/").split("/")
    assert not path.startswith(("/", "\\", "~"))
    for folder in ("/workspace", "C:/workspace"):
        assert posixpath.normpath(posixpath.join(folder, path)).startswith(folder)


@given(_PATHS, st.sampled_from(["path", "file", "filePath", "target_file", "destination", "DEST", "paths"]))
def test_a_writing_call_is_never_free_of_its_patterns(path: str, argument: str) -> None:
    writer = agent(tool("write_file", argument), writes=("docs/**/*.md",))
    verdict = Policy([Rule("all", ("*",), "free")]).judge(writer, "write_file", {argument: path})

    if verdict.kind == "free":
        parts = [part for part in path.split("/") if part not in {"", "."}]
        assert parts[0] == "docs"
        assert parts[-1].endswith(".md")
        assert ".." not in parts
    else:
        assert verdict.rule == "file_patterns"


@given(st.lists(st.sampled_from(["docs", "a", "b.c", "é", "x y"]), min_size=1, max_size=5))
def test_plain_paths_are_covered(parts: list[str]) -> None:
    assert may_write("/".join([*parts, "plan.md"]), ("*.md",))


def test_every_path_of_a_list_has_to_be_covered() -> None:
    writer = agent(tool("delete_files", "paths"), writes=("*.md",))
    verdicts = [
        POLICY.judge(writer, "delete_files", {"paths": p}).kind
        for p in (["a.md"], ["a.md", "b.py"], [["a.md"]])
    ]

    assert verdicts == ["ask", "forbidden", "forbidden"]
