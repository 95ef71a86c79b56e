"""A plan: a goal and subtasks that depend on one another, and how far they have got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

from domain.errors import InvalidPlanError

MAX_SUBTASKS: Final = 20
MAX_SUBTASK_ID: Final = 128  # characters: read models find a subtask by it, and no index takes a page of text

PlanStatus = Literal["review", "revision", "execution"]


@dataclass(frozen=True)
class Subtask:
    """One step of a plan, done by one agent after the steps it depends on."""

    id: str
    description: str
    agent: str
    depends_on: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a subtask as the log spells it; what is stored was checked before."""
        return cls(value["id"], value["description"], value["agent"], tuple(value["depends_on"]))

    def to_json(self) -> dict[str, Any]:
        """Spell the subtask as the log and the wire do."""
        return {
            "id": self.id,
            "description": self.description,
            "agent": self.agent,
            "depends_on": list(self.depends_on),
        }


@dataclass(frozen=True)
class Plan:
    """The plan a conversation is busy with: in review, sent back for revision, or in execution."""

    plan_id: str
    version: int
    status: PlanStatus
    subtasks: tuple[Subtask, ...]
    done: tuple[str, ...] = ()
    running: str | None = None
    # Who proposed it, and comes back when it is over.
    proposed_by: str = ""

    @property
    def key(self) -> str:
        """The name of this version of the plan."""
        return plan_key(self.plan_id, self.version)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a plan as a snapshot keeps it."""
        subtasks = tuple(Subtask.from_json(item) for item in value["subtasks"])
        return cls(**{**value, "subtasks": subtasks, "done": tuple(value["done"])})

    def next_subtask(self) -> Subtask | None:
        """Return the first subtask that is not done and whose dependencies are, or None."""
        waiting = (task for task in self.subtasks if task.id not in self.done)
        return next((task for task in waiting if set(task.depends_on) <= set(self.done)), None)

    def subtask(self, subtask_id: str) -> Subtask:
        """Return the subtask with this id; raises `KeyError` where there is none."""
        return {task.id: task for task in self.subtasks}[subtask_id]

    def started(self, subtask_id: str) -> Self:
        """Return the plan with this subtask running."""
        return replace(self, running=subtask_id)

    def completed(self, subtask_id: str) -> Self:
        """Return the plan with this subtask done."""
        return replace(self, running=None, done=(*self.done, subtask_id))


def plan_key(plan_id: str, version: int) -> str:
    """Return the name of one version of a plan."""
    return f"{plan_id}/{version}"


def checked_subtasks(values: Any) -> tuple[Subtask, ...]:
    """Return the subtasks of a proposal, as a model wrote it: any JSON value.

    Raises `InvalidPlanError` for what cannot be carried out.
    """
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_SUBTASKS:
        raise InvalidPlanError(reason=f"it needs 1 to {MAX_SUBTASKS} subtasks")
    subtasks = tuple(_checked_subtask(value) for value in values)
    names = [task.id for task in subtasks]
    if len(set(names)) != len(names):
        raise InvalidPlanError(reason="two subtasks have the same id")
    if unknown := {name for task in subtasks for name in task.depends_on} - set(names):
        name = min(unknown)[:MAX_SUBTASK_ID]
        raise InvalidPlanError(reason=f"a subtask depends on {name}, which is not in the plan")
    _refuse_cycles(subtasks)
    return subtasks


def _checked_subtask(value: Any) -> Subtask:
    given: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    id_, description, agent = texts = [given.get(name) for name in ("id", "description", "agent")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InvalidPlanError(reason="a subtask needs an id, a description and an agent, all texts")
    if len(str(id_)) > MAX_SUBTASK_ID:
        raise InvalidPlanError(reason=f"a subtask's id has more than {MAX_SUBTASK_ID} characters")
    depends_on = given.get("depends_on") or []
    if not isinstance(depends_on, list | tuple) or not all(isinstance(name, str) for name in depends_on):
        raise InvalidPlanError(reason="what a subtask depends on is a list of subtask ids")
    return Subtask(str(id_), str(description), str(agent), tuple(depends_on))


def _refuse_cycles(subtasks: Sequence[Subtask]) -> None:
    done: set[str] = set()
    left = list(subtasks)
    while ready := [task for task in left if set(task.depends_on) <= done]:
        done |= {task.id for task in ready}
        left = [task for task in left if task.id not in done]
    if left:
        raise InvalidPlanError(reason=f"the subtasks depend on each other in a circle ({left[0].id})")
