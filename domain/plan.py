"""A plan: a goal and subtasks that depend on one another, and how far they have got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

from domain.errors import InvalidPlanError

MAX_SUBTASKS: Final = 20

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
        """Read a subtask as a model or the log spells it. Raises `InvalidPlanError`."""
        try:
            depends_on = tuple(str(name) for name in value.get("depends_on") or ())
            texts = (value["id"], value["description"], value["agent"])
        except (KeyError, TypeError, AttributeError):
            raise InvalidPlanError(reason="a subtask needs an id, a description and an agent") from None
        if not all(isinstance(text, str) and text for text in texts):
            raise InvalidPlanError(reason="a subtask's id, description and agent are texts")
        return cls(*texts, depends_on=depends_on)

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
    key: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.plan_id}/{self.version}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a plan as a snapshot keeps it."""
        kept = {name: item for name, item in value.items() if name != "key"}
        kept["subtasks"] = tuple(Subtask.from_json(item) for item in value["subtasks"])
        kept["done"] = tuple(value["done"])
        return cls(**kept)

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


def checked_subtasks(values: Sequence[Mapping[str, Any]]) -> tuple[Subtask, ...]:
    """Return the subtasks of a proposal; raises `InvalidPlanError` for what cannot be carried out."""
    if not 1 <= len(values) <= MAX_SUBTASKS:
        raise InvalidPlanError(reason=f"it needs 1 to {MAX_SUBTASKS} subtasks")
    subtasks = tuple(Subtask.from_json(value) for value in values)
    names = [task.id for task in subtasks]
    if len(set(names)) != len(names):
        raise InvalidPlanError(reason="two subtasks have the same id")
    if unknown := {name for task in subtasks for name in task.depends_on} - set(names):
        raise InvalidPlanError(reason=f"a subtask depends on {sorted(unknown)[0]}, which is not in the plan")
    _refuse_cycles(subtasks)
    return subtasks


def _refuse_cycles(subtasks: Sequence[Subtask]) -> None:
    done: set[str] = set()
    left = list(subtasks)
    while ready := [task for task in left if set(task.depends_on) <= done]:
        done |= {task.id for task in ready}
        left = [task for task in left if task.id not in done]
    if left:
        raise InvalidPlanError(reason=f"the subtasks depend on each other in a circle ({left[0].id})")
