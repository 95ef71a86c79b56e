"""Random conversations: every decision of the aggregate, with few ids, so that they meet and repeat."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from domain.aggregate import By
from domain.conversation import Conversation
from domain.errors import MinutebookError
from domain.plan import Subtask

# What is done: the name of a decision and its arguments, without who does it.
Command = tuple[str, tuple[Any, ...]]

CALLS = st.sampled_from(["call-1", "call-2", "call-3"])
PLANS = st.sampled_from(["p1", "p2"])
WORDS = st.sampled_from(["yes", "no", None])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.just(1.0) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=3,
)
TASKS = [Subtask("s1", "look", "ask"), Subtask("s2", "write", "coder", ("s1",))]


def _command(name: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Command]:
    return st.tuples(st.just(name), st.tuples(*parts))


def _call(requires_decision: bool, arguments: Any) -> dict[str, Any]:
    names = {"model_call_id": "call_0", "tool": "write_file", "agent": "coder", "rule": "writing"}
    return {**names, "arguments": arguments, "requires_decision": requires_decision}


CALL_DECISIONS = st.sampled_from(["approve", "edit", "reject"])
CLOSINGS = st.sampled_from(["superseded", "forbidden", "cancelled", "expired"])
MESSAGES = st.sampled_from(["m1", "m2", "m3"])
TEXT = st.just("text")
PROPOSALS = st.just([task.to_json() for task in TASKS])

COMMANDS: dict[str, st.SearchStrategy[Command]] = {
    name: _command(name, *parts)
    for name, parts in {
        "receive_user_message": (MESSAGES, TEXT),
        "send_assistant_message": (MESSAGES, TEXT, TEXT, TEXT),
        "request_call": (CALLS, st.builds(_call, st.booleans(), JSON)),
        "receive_tool_result": (CALLS, JSON, WORDS),
        "decide_call": (CALLS, CALL_DECISIONS, JSON, WORDS),
        "close_call": (CALLS, CLOSINGS),
        "propose_plan": (PLANS, TEXT, PROPOSALS, TEXT),
        "decide_plan": (PLANS, st.integers(1, 2), st.sampled_from(["approve", "modify", "reject"]), WORDS),
        "start_subtask": (st.sampled_from(TASKS),),
        "complete_subtask": (),
        "fail_subtask": (TEXT,),
        "cancel_turn": (),
        "rename": (TEXT,),
        "archive": (),
        "reopen": (),
    }.items()
}

# A plan that is carried out needs many decisions in the right order: chance alone seldom finds them.
_GOOD_PLAN: list[Command] = [
    ("propose_plan", ("p1", "goal", [task.to_json() for task in TASKS], "architect")),
    ("decide_plan", ("p1", 1, "approve", None)),
    ("start_subtask", (TASKS[0],)),
    ("complete_subtask", ()),
    ("start_subtask", (TASKS[1],)),
    ("complete_subtask", ()),
]


def histories() -> st.SearchStrategy[list[Command]]:
    """Lists of commands, as they come or with a plan that goes well in between."""
    some = st.lists(st.one_of(*COMMANDS.values()), max_size=12)
    plan = st.integers(0, len(_GOOD_PLAN)).map(lambda steps: _GOOD_PLAN[:steps])
    return st.tuples(some, plan, some, plan, some).map(lambda parts: [c for part in parts for c in part])


def do(conversation: Conversation, command: Command, by: By) -> object:
    """Take a decision; return what it answers, or the refusal."""
    name, arguments = command
    decide: Callable[..., object] = getattr(conversation, name)
    try:
        return decide(*arguments, by=by)
    except MinutebookError as refusal:
        return refusal


def live(history: Sequence[Command]) -> Conversation:
    """Let a conversation go through all of it, each command in a turn of its own."""
    conversation = Conversation.begin("c1", By("user:ada", "turn-0"))
    for number, command in enumerate(history, start=1):
        do(conversation, command, By("user:ada", f"turn-{number}"))
    return conversation
