"""The agent side of a conversation: who is on, how they were switched, what their models cost."""

import pytest

from domain.agent import Agent
from domain.errors import SwitchLimitReachedError
from tests.given import BEFORE, NOW, Fact, fact, given_agent, recorded, told

SWITCHED = fact(Agent.Switched, from_="orchestrator", to="coder", reason="code", requested_by="user:ada")


def test_the_first_agent_is_put_on() -> None:
    agent = Agent.assign("c1", "orchestrator", BEFORE)
    (assigned,) = recorded(agent)
    assert told(assigned) == fact(Agent.Started, agent="orchestrator")
    assert (agent.id, agent.name, assigned.actor) == ("agent-c1", "orchestrator", "user:ada")


def test_another_agent_takes_over() -> None:
    given_agent().when(lambda a: a.switch("coder", "code", "user:ada", NOW, limit=50)).then(
        SWITCHED
    ).answered(None).leaves(name="coder", switches=1)


@pytest.mark.parametrize(("past", "to"), [([], "orchestrator"), ([SWITCHED], "coder")])
def test_a_switch_to_the_agent_already_there_is_quiet_and_names_the_first_turn(
    past: list[Fact], to: str
) -> None:
    given_agent(*past).when(lambda a: a.switch(to, "code", "user:ada", NOW, limit=0)).repeats()


def test_a_switch_over_the_limit_is_refused() -> None:
    given_agent(SWITCHED).when(lambda a: a.switch("ask", "", "user:ada", NOW, limit=1)).refused(
        SwitchLimitReachedError, limit=1
    )


def test_the_last_switch_within_the_limit_is_not_refused() -> None:
    given_agent(SWITCHED).when(lambda a: a.switch("ask", "", "user:ada", NOW, limit=2)).leaves(switches=2)


def test_the_switches_of_a_plan_do_not_count() -> None:
    given_agent().when(lambda a: a.switch("coder", "subtask s1", "plan:p1", NOW)).then(
        fact(Agent.Switched, from_="orchestrator", to="coder", reason="subtask s1", requested_by="plan:p1")
    ).leaves(name="coder", switches=0)


def test_each_call_of_a_model_is_noted_with_the_agent_who_made_it() -> None:
    called = fact(
        Agent.ModelCalled,
        agent="coder",
        model="demo",
        input_tokens=10,
        output_tokens=5,
        duration_ms=7,
        outcome="stop",
    )
    outcome = (
        given_agent(SWITCHED).when(lambda a: a.note_model_call("demo", 10, 5, 7, "stop", NOW)).then(called)
    )
    outcome.leaves(name="coder", switches=1)


def test_an_old_switch_that_did_not_say_who_had_asked_is_read_as_unknown() -> None:
    old = {"from_": "ask", "to": "coder", "reason": ""}
    Agent.Switched.upcast_v1_v2(old)
    assert old == {"from_": "ask", "to": "coder", "reason": "", "requested_by": "unknown"}
