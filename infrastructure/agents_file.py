"""Reads the agents' TOML file. What is wrong with it is one sentence that names the entry and the field."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from application.agents import BUILT_IN_TOOLS, AgentProfile, AgentRoster, Effect, Rule
from application.language_model import Tool

DEFAULT_AGENTS = Path(__file__).with_name("agents.toml")
MOST_BYTES = 1024 * 1024

# Providers take no other names for tools; agents keep to the same.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Table = Mapping[str, Any]


class AgentsFileError(ValueError):
    """The agents' file cannot be used; the message is one sentence for the operator."""


def load_agents(path: Path | None = None) -> AgentRoster:
    """Read the agents of a server from this file, or the set that ships. Raises `AgentsFileError`."""
    path = path or DEFAULT_AGENTS
    try:
        return read_agents(_text_of(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise AgentsFileError(f"The agents file {path} cannot be read: {reason}.") from None
    except AgentsFileError as error:
        raise AgentsFileError(f"The agents file {path}: {error}") from None


def _text_of(path: Path) -> str:
    with path.open("rb") as file:  # a device or a pipe may have no end
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise AgentsFileError(f"it is larger than {MOST_BYTES} bytes.")
    return data.decode()


def read_agents(text: str) -> AgentRoster:
    """Read the agents from TOML text. Raises `AgentsFileError`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AgentsFileError(f"it is not valid TOML: {error}.") from None
    except RecursionError:
        raise AgentsFileError("it is nested too deeply.") from None
    _no_others(table, "the file", {"first", "rules", "tools", "agents"})
    rules = [
        _rule(number, rule) for number, rule in enumerate(_field(table, "the file", "rules", list, []), 1)
    ]
    shared = {name: _tool(f"tools.{name}", name, tool) for name, tool in _tables(table, "tools").items()}
    profiles = [_profile(name, agent, shared) for name, agent in _tables(table, "agents").items()]
    return AgentRoster(profiles, rules, _first(table, profiles))


def _first(table: Table, profiles: list[AgentProfile]) -> str:
    first = _field(table, "the file", "first", str, "orchestrator")
    if first not in {profile.name for profile in profiles}:
        raise AgentsFileError(f"first names the agent {first!r}, which is not defined.")
    return cast("str", first)


def _profile(name: str, table: object, shared: Mapping[str, Tool]) -> AgentProfile:
    entry = f"agents.{name}"
    agent = _entry(entry, name, table)
    _no_others(agent, entry, {"description", "instructions", "model", "tools", "writes", "may_plan"})
    return AgentProfile(
        name=name,
        description=_field(agent, entry, "description", str).strip(),
        instructions=_field(agent, entry, "instructions", str).strip(),
        model=_field(agent, entry, "model", str, None),
        tools=_tools(agent, entry, shared),
        writes=_texts(agent, entry, "writes", []),
        may_plan=_field(agent, entry, "may_plan", bool, False),
    )


def _tools(agent: Table, entry: str, shared: Mapping[str, Tool]) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for item in _field(agent, entry, "tools", list, []):
        tool = _own_tool(item, entry) if isinstance(item, dict) else shared.get(str(item))
        if tool is None:
            raise AgentsFileError(f"{entry}.tools names the tool {item!r}, which is not defined.")
        if tool.name in tools:
            raise AgentsFileError(f"{entry}.tools names the tool {tool.name!r} twice.")
        tools[tool.name] = tool
    return tuple(tools.values())


def _own_tool(table: Table, entry: str) -> Tool:
    name = _field(table, f"a tool of {entry}.tools", "name", str)
    return _tool(f"{entry}.tools.{name}", name, {key: value for key, value in table.items() if key != "name"})


def _tool(entry: str, name: str, table: object) -> Tool:
    tool = _entry(entry, name, table)
    _no_others(tool, entry, {"description", "parameters"})
    if name in BUILT_IN_TOOLS:
        raise AgentsFileError(f"{entry} cannot be defined: {name} is built in.")
    return Tool(name, _field(tool, entry, "description", str).strip(), _schema(tool, entry))


def _schema(tool: Table, entry: str) -> Mapping[str, Any]:
    """Read a JSON Schema, given as a table or as JSON text; a tool without one takes no arguments."""
    schema = tool.get("parameters", {"type": "object", "properties": {}})
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise AgentsFileError(f"{entry}.parameters is not valid JSON: {error}.") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise AgentsFileError(f'{entry}.parameters must be a JSON Schema with the type "object".')
    if not isinstance(schema.get("properties", {}), dict):
        raise AgentsFileError(f"{entry}.parameters.properties must be a table.")
    return schema


def _rule(number: int, table: object) -> Rule:
    entry = f"rules, entry {number}"
    if not isinstance(table, dict):
        raise AgentsFileError(f"{entry}, must be a table.")
    _no_others(table, entry, {"name", "tools", "effect", "arguments"})
    effect = _field(table, entry, "effect", str)
    if effect not in get_args(Effect):
        raise AgentsFileError(
            f"{entry}: effect must be one of {', '.join(get_args(Effect))}, not {effect!r}."
        )
    name = _field(table, entry, "name", str)
    if not _NAME.fullmatch(name):
        raise AgentsFileError(f"{entry}: name must be 1 to 64 of A-Z a-z 0-9 _ -, not {name!r}.")
    return Rule(name, _texts(table, entry, "tools"), cast("Effect", effect), _globs(table, entry))


def _globs(rule: Table, entry: str) -> Mapping[str, str]:
    globs = _field(rule, entry, "arguments", dict, {})
    if not all(isinstance(glob, str) for glob in globs.values()):
        raise AgentsFileError(f"{entry}: arguments must give a text for each argument.")
    return cast("Mapping[str, str]", globs)


# --- fields --------------------------------------------------------------------------------------

_MISSING = object()
_KINDS = {str: "a text", list: "a list", dict: "a table", bool: "true or false"}


def _field(table: Table, entry: str, name: str, kind: type, default: object = _MISSING) -> Any:
    value = table.get(name, default)
    if value is _MISSING:
        raise AgentsFileError(f"{entry}: {name} is missing.")
    if value is not default and not isinstance(value, kind):
        raise AgentsFileError(f"{entry}: {name} must be {_KINDS[kind]}.")
    if kind is str and value == "":
        raise AgentsFileError(f"{entry}: {name} is empty.")
    return value


def _texts(table: Table, entry: str, name: str, default: object = _MISSING) -> tuple[str, ...]:
    values = _field(table, entry, name, list, default)
    if not all(isinstance(value, str) and value for value in values):
        raise AgentsFileError(f"{entry}: {name} must be a list of texts.")
    return tuple(values)


def _tables(table: Table, name: str) -> Table:
    return cast("Table", _field(table, "the file", name, dict, {}))


def _entry(entry: str, name: str, table: object) -> Table:
    if not _NAME.fullmatch(name):
        raise AgentsFileError(f"{entry}: a name must be 1 to 64 of A-Z a-z 0-9 _ -.")
    if not isinstance(table, dict):
        raise AgentsFileError(f"{entry} must be a table.")
    return table


def _no_others(table: Table, entry: str, known: set[str]) -> None:
    others = sorted(set(table) - known)
    if others:
        raise AgentsFileError(
            f"{entry}: {others[0]} is not a field; the fields are {', '.join(sorted(known))}."
        )
