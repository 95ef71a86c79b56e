"""The agents' file becomes a roster, or one clear sentence."""

from pathlib import Path

import pytest

from application.agents import PROPOSE_PLAN, SWITCH_AGENT
from application.errors import AgentNotFoundError
from infrastructure.agents_file import AgentsFileError, load_agents, read_agents

GOOD = """
first = "clerk"

[[rules]]
name = "money"
tools = ["refund"]
effect = "forbidden"
arguments = { amount = "?????*" }

[tools.look]
description = "Looks."

[agents.clerk]
description = "Helps."
instructions = "Be kind."
model = "openai:gpt-4o"
tools = [
    "look",
    { name = "refund", description = "P.", parameters = '{"type": "object", "properties": {"amount": {}}}' },
]
"""


def test_the_set_that_ships_is_the_one_the_field_knows() -> None:
    roster = load_agents()

    assert roster.names == ("orchestrator", "coder", "architect", "debug", "ask", "universal")
    assert roster.first == "orchestrator"
    assert roster.get("architect").writes == ("*.md",)
    assert [profile.name for profile in roster.profiles if profile.may_plan] == ["architect", "universal"]
    assert [profile.name for profile in roster.profiles if profile.writes] == [
        "coder",
        "architect",
        "universal",
    ]


def test_a_file_becomes_a_roster() -> None:
    roster = read_agents(GOOD)
    clerk = roster.get("clerk")

    assert (roster.first, clerk.model, clerk.writes, clerk.may_plan) == ("clerk", "openai:gpt-4o", (), False)
    assert [tool.name for tool in clerk.tools] == ["look", "refund"]
    assert clerk.tools[1].parameters["properties"] == {"amount": {}}
    assert roster.rules[0].arguments == {"amount": "?????*"}


def test_an_unknown_agent_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AgentNotFoundError, match=r"no agent called nobody; the agents are clerk"):
        read_agents(GOOD).get("nobody")


def test_a_lone_agent_is_not_offered_a_switch() -> None:
    assert [tool.name for tool in read_agents(GOOD).tools_for("clerk")] == ["look", "refund"]


def test_the_built_in_tools_name_the_agents_there_are() -> None:
    *_, switch, plan = load_agents().tools_for("architect")

    assert (switch.name, plan.name) == (SWITCH_AGENT.name, PROPOSE_PLAN.name)
    assert switch.parameters["properties"]["agent"]["enum"] == [
        "orchestrator",
        "coder",
        "debug",
        "ask",
        "universal",
    ]
    subtask = plan.parameters["properties"]["subtasks"]["items"]["properties"]
    assert "architect" in subtask["agent"]["enum"]
    assert "enum" not in SWITCH_AGENT.parameters["properties"]["agent"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('first = "clerk"', 'first = "boss"', "first names the agent 'boss', which is not defined."),
        ('first = "clerk"', "first = 5", "the file: first must be a text."),
        ('first = "clerk"', 'frist = "clerk"', "the file: frist is not a field"),
        ('first = "clerk"', "first = ", "it is not valid TOML: .*line 2"),
        ('description = "Helps."\n', "", "agents.clerk: description is missing."),
        ('"Be kind."', '""', "agents.clerk: instructions is empty."),
        ('model = "openai:gpt-4o"', "model = 4", "agents.clerk: model must be a text."),
        ('model = "openai:gpt-4o"', 'may_plan = "yes"', "agents.clerk: may_plan must be true or false."),
        ('model = "openai:gpt-4o"', "writes = [1]", "agents.clerk: writes must be a list of texts."),
        ('model = "openai:gpt-4o"', 'wirtes = ["*"]', "agents.clerk: wirtes is not a field; the fields are"),
        (
            '    "look",\n',
            '    "looks",\n',
            "agents.clerk.tools names the tool 'looks', which is not defined.",
        ),
        ('    "look",\n', '    "look", "look",\n', "agents.clerk.tools names the tool 'look' twice."),
        (
            "[tools.look]",
            "[tools.switch_agent]",
            "tools.switch_agent cannot be defined: switch_agent is built in.",
        ),
        ("[tools.look]", '[tools."look at"]', "tools.look at: a name must be 1 to 64 of A-Z a-z 0-9 _ -."),
        ("[agents.clerk]", '[agents."the clerk"]', "agents.the clerk: a name must be"),
        ('description = "Looks."', "", "tools.look: description is missing."),
        ('"Looks."', '"Looks."\nparameters.type = "array"', "tools.look.parameters must be a JSON Schema"),
        ('\'{"type"', "'{type", "agents.clerk.tools.refund.parameters is not valid JSON"),
        (
            '"forbidden"',
            '"never"',
            "rules, entry 1: effect must be one of free, ask, forbidden, not 'never'.",
        ),
        ('name = "money"\n', "", "rules, entry 1: name is missing."),
        ('tools = ["refund"]', 'tools = "refund"', "rules, entry 1: tools must be a list."),
        ('{ amount = "?????*" }', "{ amount = 5 }", "rules, entry 1: arguments must give a text"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_entry_and_field(old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    with pytest.raises(AgentsFileError, match=sentence) as caught:
        read_agents(GOOD.replace(old, new))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AgentsFileError, match=r"agents\.toml cannot be read: No such file"):
        load_agents(tmp_path / "agents.toml")


def test_what_is_wrong_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("agents = 5")
    with pytest.raises(AgentsFileError, match=r"mine\.toml: the file: agents must be a table\."):
        load_agents(path)
