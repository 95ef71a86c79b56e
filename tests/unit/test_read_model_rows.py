"""The rows that a fold works on: those of an erased conversation go, whenever they came."""

import time
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from infrastructure.projections.read_model import Rows, Table

NOTES = Table("notes", {"conversation": "text", "position": "bigint"}, ("conversation", "position"))
ONES = Table("ones", {"position": "bigint", "conversation": "text"}, ("position", "conversation"))
OTHER = Table("other", {"name": "text"}, ("name",))

CONVERSATIONS = st.sampled_from(["c1", "c2", "c3"])
STEPS = st.tuples(
    st.sampled_from(["put", "take", "drop", "purge"]), st.sampled_from([NOTES, ONES]), CONVERSATIONS,
    st.integers(1, 3),
)  # fmt: skip


def row(conversation: str, position: int) -> dict[str, Any]:
    return {"conversation": conversation, "position": position}


def happen(rows: Rows, expected: dict[Any, Any], what: str, table: Table, one: dict[str, Any]) -> None:
    """Let a step happen to the rows, and to what there must be of them."""
    about = table.name, table.key_of(one)
    if what == "put":
        rows.put(table, one)
        expected[about] = one
    elif what == "take" and about not in {*expected, *rows.dropped, *rows.loaded}:
        rows.take({about: one})
        expected[about] = one
    elif what == "drop":
        rows.drop(table, *about[1])
        expected.pop(about, None)
    elif what == "purge":
        rows.purge(table, one["conversation"])
        for gone in [it for it in expected if it[0] == table.name and one["conversation"] in it[1]]:
            del expected[gone]


@given(st.lists(STEPS, max_size=30))
def test_a_purge_takes_every_row_of_its_conversation_and_no_other(steps: list[Any]) -> None:
    rows, expected = Rows(), dict[Any, Any]()
    for what, table, conversation, position in steps:
        happen(rows, expected, what, table, row(conversation, position))
        for one, name, number in product((NOTES, ONES), ("c1", "c2", "c3"), (1, 2, 3)):
            key = one.key_of(row(name, number))
            assert rows.get(one, *key) == expected.get((one.name, key))


def test_a_table_without_conversations_in_its_key_keeps_its_rows() -> None:
    rows = Rows()
    rows.put(OTHER, {"name": "c1"})
    rows.purge(OTHER, "c1")
    assert rows.get(OTHER, "c1") == {"name": "c1"}


def test_many_purges_cost_hardly_more_than_one_however_many_rows_are_kept() -> None:
    rows = Rows()
    rows.take({("notes", (f"c{n}", 1)): row(f"c{n}", 1) for n in range(50_000)})

    def took(first: int, last: int) -> float:
        began = time.process_time()
        for number in range(first, last):
            rows.purge(NOTES, f"c{number}")
        return time.process_time() - began

    first = took(0, 1)  # this one looks through all of them
    assert took(1, 1_001) < 10 * first + 0.1
