"""The demo does what its help says, the same way every time."""

import json
import time
from typing import Any

import pytest

from application import errors
from application.agents import PROPOSE_PLAN, SWITCH_AGENT
from application.language_model import (
    CallMade,
    Finished,
    ModelChunk,
    ModelMessage,
    ModelRequest,
    ResultGiven,
    Said,
    TextDelta,
    ToolCall,
)
from application.policy import Policy
from infrastructure.agents_file import load_agents
from infrastructure.models.demo import HELP, DemoModel

ROSTER = load_agents()


def request(agent: str, *messages: ModelMessage | str) -> ModelRequest:
    said = [Said("user", message) if isinstance(message, str) else message for message in messages]
    return ModelRequest("demo", agent, ROSTER.get(agent).instructions, said, ROSTER.tools_for(agent))


async def chunks(agent: str, *messages: ModelMessage | str) -> list[ModelChunk]:
    return [chunk async for chunk in DemoModel(0, 0).answer(request(agent, *messages))]


async def text(agent: str, *messages: ModelMessage | str) -> str:
    return "".join(chunk.text for chunk in await chunks(agent, *messages) if isinstance(chunk, TextDelta))


async def calls(agent: str, *messages: ModelMessage | str) -> list[tuple[str, dict[str, Any]]]:
    made = [chunk for chunk in await chunks(agent, *messages) if isinstance(chunk, ToolCall)]
    return [(call.tool, json.loads(call.arguments)) for call in made]


def switched(agent: str) -> tuple[ModelMessage, ModelMessage]:
    arguments = json.dumps({"agent": agent})
    return CallMade("demo_1", SWITCH_AGENT.name, arguments), ResultGiven("demo_1", SWITCH_AGENT.name, "Done.")


async def test_help_lists_what_it_understands() -> None:
    assert await text("ask", "help") == HELP
    assert "(coder: write hello.py)" in HELP  # no word before it that does not belong to it
    assert await calls("ask", "coder: write hello.py")


async def test_what_it_does_not_understand_it_says_back() -> None:
    assert "You said: Good morning" in await text("ask", "Good morning")


@pytest.mark.parametrize(
    ("agent", "said", "tool", "arguments"),
    [
        ("ask", "read src/a.py", "read_file", {"path": "src/a.py"}),
        ("ask", "Read README.md, please.", "read_file", {"path": "README.md"}),
        ("ask", "list", "list_files", {}),
        ("ask", "search for cats", "search_files", {"pattern": "cats"}),
        ("coder", "write hello.py: print(1)", "write_file", {"path": "hello.py", "content": "print(1)"}),
        ("coder", "write ../x.py: 1", "write_file", {"path": "../x.py", "content": "1"}),
        ("coder", "delete hello.py", "delete_file", {"path": "hello.py"}),
        ("coder", "run make test", "execute_command", {"command": "make test"}),
        ("ask", "switch to coder", SWITCH_AGENT.name, {"agent": "coder", "reason": "you asked for it"}),
        ("ask", "coder: write a.py", SWITCH_AGENT.name, {"agent": "coder", "reason": "you asked for it"}),
        ("ask", "write a.py", SWITCH_AGENT.name, {"agent": "coder", "reason": "ask has no tool write_file"}),
        ("orchestrator", "plan a garden", SWITCH_AGENT.name, None),
        ("architect", "plan a garden", PROPOSE_PLAN.name, None),
        ("coder", "edit a.py", "edit_file", None),
    ],
)
async def test_plain_words_become_calls(
    agent: str, said: str, tool: str, arguments: dict[str, Any] | None
) -> None:
    [(called, given)] = await calls(agent, said)

    assert called == tool
    assert arguments is None or given == arguments


async def test_the_call_follows_the_text_and_the_end_says_tool_calls() -> None:
    first, *_, call, end = await chunks("ask", "read a.py")

    assert isinstance(first, TextDelta)
    assert isinstance(call, ToolCall)
    assert isinstance(end, Finished)
    assert end.reason == "tool_calls"
    assert end.input_tokens > 0


@pytest.mark.parametrize(("said", "number"), [("both", 2), ("three files", 3)])
async def test_several_calls_come_in_one_answer(said: str, number: int) -> None:
    made = [chunk for chunk in await chunks("coder", said) if isinstance(chunk, ToolCall)]

    assert len({call.model_call_id for call in made}) == number
    assert {call.tool for call in made} == {"write_file"}


async def test_call_ids_go_on_where_the_history_ended() -> None:
    history = (
        "read a",
        CallMade("demo_1", "read_file", "{}"),
        ResultGiven("demo_1", "read_file", "A"),
        "read b",
    )
    [call] = [chunk for chunk in await chunks("ask", *history) if isinstance(chunk, ToolCall)]

    assert call.model_call_id == "demo_2"


async def test_after_a_hand_over_the_new_agent_does_what_was_asked() -> None:
    assert await calls("coder", "coder: write a.py: 1", *switched("coder")) == [
        ("write_file", {"path": "a.py", "content": "1"})
    ]
    assert [name for name, _ in await calls("architect", "plan a garden", *switched("architect"))] == [
        "propose_plan"
    ]
    assert "This is coder now" in await text("coder", "switch to coder", *switched("coder"))


async def test_nobody_hands_over_twice_for_the_same_words() -> None:
    assert await calls("ask", "write a.py", *switched("coder")) == []


async def test_after_the_results_of_the_new_agent_it_says_what_came_of_them() -> None:
    made = (CallMade("demo_2", "write_file", "{}"), ResultGiven("demo_2", "write_file", "3 bytes written"))

    assert "3 bytes written" in await text("coder", "write a.py", *switched("coder"), *made)
    assert await calls("coder", "write a.py", *switched("coder"), *made) == []


async def test_several_results_are_summed_up() -> None:
    made = [CallMade("1", "read_file", "{}"), CallMade("2", "read_file", "{}")]
    given = [ResultGiven("1", "read_file", "A"), ResultGiven("2", "read_file", "B")]

    assert "All 2 calls are answered: read_file, read_file." in await text("ask", "both", *made, *given)


async def test_a_rejection_is_acknowledged_with_its_feedback() -> None:
    made = (
        CallMade("1", "write_file", "{}"),
        ResultGiven("1", "write_file", "Rejected by a person: not today"),
    )
    said = await text("coder", "write a.py", *made)

    assert said.startswith("Understood, I leave write_file alone.")
    assert "not today" in said


async def test_a_plan_has_steps_that_depend_on_earlier_ones() -> None:
    [(_, plan)] = await calls("architect", "plan a garden")

    assert plan["goal"] == "a garden"
    assert [(step["id"], step["depends_on"]) for step in plan["subtasks"]] == [
        ("1", []),
        ("2", ["1"]),
        ("3", ["1", "2"]),
    ]
    assert {step["agent"] for step in plan["subtasks"]} <= set(ROSTER.names)


async def test_a_plan_sent_back_comes_again_with_the_feedback_worked_in() -> None:
    [(_, plan)] = await calls("architect", "plan a garden")
    proposed = Said("assistant", "I propose this plan: a garden")
    [(tool, again)] = await calls("architect", "plan a garden", proposed, "The plan was sent back: add tests")

    assert tool == PROPOSE_PLAN.name
    assert again["goal"] == "a garden"
    assert again["subtasks"][:3] == plan["subtasks"]
    assert [step["description"] for step in again["subtasks"][3:]] == ["Work in what you said: add tests"]


async def test_what_happened_before_a_hand_over_is_known_does_not_happen_again() -> None:
    made = (
        CallMade("demo_2", "write_file", "{}"),
        ResultGiven("demo_2", "write_file", "This call was not run."),
    )

    assert await calls("coder", "coder: forbidden", *made, *switched("coder")) == []
    assert "did not work" in await text("coder", "coder: forbidden", *made, *switched("coder"))


async def test_a_note_about_edited_arguments_is_not_taken_for_words() -> None:
    made = (CallMade("demo_1", "write_file", "{}"), ResultGiven("demo_1", "write_file", "2 bytes written"))

    assert "2 bytes written" in await text(
        "coder", "write a.py", *made, "I changed the arguments of write_file to {}."
    )


async def test_a_subtask_calls_the_tool_its_words_name_or_is_done() -> None:
    assert await calls("coder", "Subtask 2/3: Write result.txt: a garden") == [
        ("write_file", {"path": "result.txt", "content": "a garden"})
    ]
    assert await calls("debug", "Subtask 3/3: Check the result") == []
    assert await text("debug", "Subtask 3/3: Check the result") == "Done: Check the result"


async def test_a_subtask_stays_with_its_agent() -> None:
    assert await calls("debug", "Subtask 3/3: Write result.txt") == []


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("fail", errors.ModelUnavailableError),
        ("rate limit", errors.ModelRateLimitedError),
        ("refuse", errors.ModelRefusedError),
        ("timeout", errors.ModelTimeoutError),
        ("auth", errors.ModelAuthError),
    ],
)
async def test_it_fails_as_asked(said: str, error: type[errors.ModelError]) -> None:
    with pytest.raises(error):
        await chunks("ask", said)


@pytest.mark.parametrize("agent", ROSTER.names)
async def test_forbidden_is_forbidden_to_every_agent(agent: str) -> None:
    [(tool, arguments)] = await calls(agent, "forbidden")

    assert Policy(ROSTER.rules).judge(ROSTER.get(agent), tool, arguments).kind == "forbidden"


async def test_bad_arguments_are_not_json() -> None:
    [call] = [chunk for chunk in await chunks("ask", "bad arguments") if isinstance(chunk, ToolCall)]

    with pytest.raises(json.JSONDecodeError):
        json.loads(call.arguments)


async def test_a_long_answer_has_as_many_words_as_asked_for() -> None:
    assert len((await text("ask", "long 500")).split()) == 500


async def test_a_slow_answer_takes_its_time() -> None:
    started = time.monotonic()
    async for _ in DemoModel(0, 0.05).answer(request("ask", "slow 4")):
        pass

    assert time.monotonic() - started >= 0.2


async def test_the_same_request_has_the_same_answer() -> None:
    assert await chunks("architect", "plan a garden") == await chunks("architect", "plan a garden")


async def test_without_tools_it_only_talks() -> None:
    bare = ModelRequest("demo", "ask", "", [Said("user", "write a.py")])

    assert all(
        not isinstance(chunk, ToolCall) for chunk in [chunk async for chunk in DemoModel(0).answer(bare)]
    )
