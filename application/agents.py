"""Who can be on in a conversation: the agents' profiles, their tools, and the rules for what they call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from application.errors import AgentNotFoundError
from application.language_model import Tool

Effect = Literal["free", "ask", "forbidden"]
# Characters of a tool's name, more than any provider takes: read models find calls by it, and no index takes
# a page of text.
MAX_TOOL_NAME: Final = 128

SWITCH_AGENT = Tool(
    name="switch_agent",
    description="Hand the conversation over to another agent, which goes on with the whole history.",
    parameters={
        "type": "object",
        "properties": {
            "agent": {"type": "string", "description": "The agent that should go on."},
            "reason": {"type": "string", "description": "Why, in one sentence."},
        },
        "required": ["agent"],
        "additionalProperties": False,
    },
)

PROPOSE_PLAN = Tool(
    name="propose_plan",
    description=(
        "Propose a plan to the person: a goal and the subtasks that reach it. Nothing is carried "
        "out before the person approves it; then the subtasks run one by one, each after those it depends on."
    ),
    parameters={
        "type": "object",
        "properties": {
            "goal": {"type": "string", "description": "What will be true when the plan is done."},
            "subtasks": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {
                            "type": "string",
                            "description": "Short and unique in the plan, as `1` or `tests`.",
                        },
                        "description": {"type": "string", "description": "What to do, complete in itself."},
                        "agent": {"type": "string", "description": "The agent that does it."},
                        "depends_on": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "The ids of the subtasks that come before. No cycles.",
                        },
                    },
                    "required": ["id", "description", "agent"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["goal", "subtasks"],
        "additionalProperties": False,
    },
)

BUILT_IN_TOOLS = frozenset({SWITCH_AGENT.name, PROPOSE_PLAN.name})


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """One agent as the operator describes it.

    `model` None is the server's default. Without `writes` patterns the agent never changes a file.
    """

    name: str
    description: str
    instructions: str
    model: str | None = None
    tools: tuple[Tool, ...] = ()
    writes: tuple[str, ...] = ()
    may_plan: bool = False

    def tool(self, name: str) -> Tool | None:
        """Return the profile's own tool of this name, or None."""
        return next((tool for tool in self.tools if tool.name == name), None)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the policy: for which tools (globs) and arguments (name to glob), to what effect."""

    name: str
    tools: tuple[str, ...]
    effect: Effect
    arguments: Mapping[str, str] = field(default_factory=dict)


class AgentRoster:
    """All agents of a server, which of them is first, and the rules for their calls, first match first."""

    def __init__(
        self, profiles: Sequence[AgentProfile], rules: Sequence[Rule] = (), first: str = "orchestrator"
    ) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self.rules = tuple(rules)
        self.first = self.get(first).name

    @property
    def profiles(self) -> tuple[AgentProfile, ...]:
        """Every profile, in the order of the file."""
        return tuple(self._profiles.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Every agent's name, in the order of the file."""
        return tuple(self._profiles)

    def get(self, name: str) -> AgentProfile:
        """Return the profile of this name; raises `AgentNotFoundError`."""
        if name not in self._profiles:
            raise AgentNotFoundError(agent=name, agents=", ".join(self._profiles))
        return self._profiles[name]

    def tools_for(self, name: str) -> tuple[Tool, ...]:
        """Return what this agent's model is offered: its own tools, then ours, naming the others."""
        profile = self.get(name)
        tools = profile.tools
        if len(self._profiles) > 1:
            tools += (self._switch_agent(name),)
        return (*tools, self._propose_plan()) if profile.may_plan else tools

    def _switch_agent(self, name: str) -> Tool:
        others = [profile for profile in self.profiles if profile.name != name]
        known = "\n".join(f"- {profile.name}: {profile.description}" for profile in others)
        properties = SWITCH_AGENT.parameters["properties"]
        agent = {**properties["agent"], "enum": [profile.name for profile in others]}
        return replace(
            SWITCH_AGENT,
            description=f"{SWITCH_AGENT.description}\n{known}",
            parameters={**SWITCH_AGENT.parameters, "properties": {**properties, "agent": agent}},
        )

    def _propose_plan(self) -> Tool:
        subtasks = PROPOSE_PLAN.parameters["properties"]["subtasks"]
        item: Mapping[str, Any] = subtasks["items"]
        agent = {**item["properties"]["agent"], "enum": list(self._profiles)}
        item = {**item, "properties": {**item["properties"], "agent": agent}}
        properties = {**PROPOSE_PLAN.parameters["properties"], "subtasks": {**subtasks, "items": item}}
        return replace(PROPOSE_PLAN, parameters={**PROPOSE_PLAN.parameters, "properties": properties})
