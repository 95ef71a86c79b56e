"""A conversation in LangGraph with its PostgresSaver.

Started as `python -m tests.benchmarks.peers.langgraph_saver URL TURNS WARM_UP IN OUT`, in an environment of
its own. The graph is the usual one: messages as state, one node that answers (at once), a thread a
conversation. Prints JSON.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.benchmarks.stored import growth, stored_bytes
from tests.benchmarks.texts import texts


def answering(size: int) -> Any:
    """Return the graph's builder; its one node says `size` bytes."""
    answers = texts(size, seed=2)

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(next(answers))]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder


def conversed(graph: Any, turns: int, words: Iterator[str]) -> tuple[dict[str, Any], list[float]]:
    """Take the turns; returns the thread and the seconds of each turn."""
    thread = {"configurable": {"thread_id": str(uuid4())}}
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        graph.invoke({"messages": [HumanMessage(next(words))]}, thread)
        times.append(time.perf_counter() - started)
    return thread, times


def main(url: str, turns: int, warm_up: int, said: int, answer: int) -> None:
    with PostgresSaver.from_conn_string(url) as saver, psycopg.connect(url, autocommit=True) as connection:
        saver.setup()
        words = texts(said, seed=1)
        graph = answering(answer).compile(checkpointer=saver)
        conversed(graph, warm_up, words)
        before = stored_bytes(connection)
        thread, times = conversed(graph, turns, words)
        after = stored_bytes(connection)
        started = time.perf_counter()
        messages = graph.get_state(thread).values["messages"]
        load_s = time.perf_counter() - started
    assert len(messages) == 2 * turns
    print(json.dumps({"times": times, "stored": growth(before, after), "load_s": load_s}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
