"""A plan is carried out in the order of its dependencies, or it is refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import InvalidPlanError
from domain.plan import MAX_SUBTASK_ID, MAX_SUBTASKS, Plan, Subtask, checked_subtasks


def task(name: str, *depends_on: str) -> dict[str, Any]:
    return {"id": name, "description": f"do {name}", "agent": "coder", "depends_on": list(depends_on)}


@st.composite
def dependency_graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Subtasks in any order that depend on any others, in circles or not."""
    names = [f"s{n}" for n in range(draw(st.integers(1, 7)))]
    some = st.lists(st.sampled_from(names), max_size=3)
    return [task(name, *draw(some)) for name in draw(st.permutations(names))]


def carried_out(plan: Plan) -> list[str]:
    """Carry the plan out as far as it goes, and return the order."""
    while following := plan.next_subtask():
        plan = plan.started(following.id).completed(following.id)
    return list(plan.done)


@settings(max_examples=300)
@given(dependency_graphs())
def test_a_plan_is_refused_or_carried_out_whole_with_dependencies_first(tasks: list[dict[str, Any]]) -> None:
    try:
        subtasks = checked_subtasks(tasks)
    except InvalidPlanError:
        stuck = Plan("p1", 1, "execution", tuple(Subtask.from_json(item) for item in tasks))
        assert len(carried_out(stuck)) < len(tasks), "it was refused and could have been carried out"
        return
    order = carried_out(Plan("p1", 1, "execution", subtasks))
    assert sorted(order) == sorted(item["id"] for item in tasks)
    assert all(order.index(other) < order.index(item["id"]) for item in tasks for other in item["depends_on"])


def test_the_subtasks_come_in_the_order_given_where_nothing_depends() -> None:
    subtasks = checked_subtasks([task("b"), task("a"), task("c")])
    assert carried_out(Plan("p1", 1, "execution", subtasks)) == ["b", "a", "c"]


def test_the_running_subtask_stays_the_next_one_until_it_is_done() -> None:
    plan = Plan("p1", 1, "execution", checked_subtasks([task("b", "a"), task("a")])).started("a")
    following = plan.next_subtask()
    assert (following and following.id, plan.running) == ("a", "a")
    assert plan.completed("a").running is None


@pytest.mark.parametrize(
    ("values", "part_of_the_reason"),
    [
        (None, "1 to 20 subtasks"),
        ("s1", "1 to 20 subtasks"),
        ({"id": "s1"}, "1 to 20 subtasks"),
        ([], "1 to 20 subtasks"),
        ([task(f"s{n}") for n in range(MAX_SUBTASKS + 1)], "1 to 20 subtasks"),
        (["s1"], "needs an id"),
        ([{"id": "s1", "description": "d"}], "needs an id"),
        ([{**task("s1"), "agent": ""}], "needs an id"),
        ([{**task("s1"), "description": "  "}], "needs an id"),
        ([{**task("s1"), "id": 1}], "needs an id"),
        ([task("s" * (MAX_SUBTASK_ID + 1))], "more than 128 characters"),
        ([{**task("s1"), "depends_on": "s1"}], "list of subtask ids"),
        ([{**task("s1"), "depends_on": [1]}], "list of subtask ids"),
        ([{**task("s1"), "depends_on": 5}], "list of subtask ids"),
        ([task("s1"), task("s1")], "same id"),
        ([task("s1", "s9")], "s9, which is not in the plan"),
        ([task("s1", "s1")], "in a circle (s1)"),
        ([task("s0"), task("s1", "s2"), task("s2", "s1")], "in a circle (s1)"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_with_the_reason(
    values: Any, part_of_the_reason: str
) -> None:
    with pytest.raises(InvalidPlanError) as refusal:
        checked_subtasks(values)
    assert part_of_the_reason in str(refusal.value)


@pytest.mark.parametrize("depends_on", [None, []])
def test_a_subtask_may_depend_on_nothing(depends_on: Any) -> None:
    bare = {"id": "s1", "description": "d", "agent": "ask"}
    assert checked_subtasks([bare]) == checked_subtasks([{**bare, "depends_on": depends_on}])


def test_the_most_subtasks_allowed_are_not_refused() -> None:
    assert len(checked_subtasks([task(f"s{n}") for n in range(MAX_SUBTASKS)])) == MAX_SUBTASKS


def test_the_longest_id_allowed_is_not_refused() -> None:
    assert checked_subtasks([task("s" * MAX_SUBTASK_ID)])


def test_a_subtask_reads_back_as_it_was_written() -> None:
    subtask = Subtask("s1", "d", "coder", ("s0",))
    assert Subtask.from_json(subtask.to_json()) == subtask


def test_a_subtask_can_be_found_by_its_id() -> None:
    plan = Plan("p1", 1, "execution", checked_subtasks([task("a"), task("b")]))
    assert plan.subtask("b").id == "b"
    with pytest.raises(KeyError):
        plan.subtask("c")
