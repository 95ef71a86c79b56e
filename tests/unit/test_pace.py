"""When batches of saves are halved, whatever the disk, the load and the clock do."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from infrastructure.postgres.pace import Pace, Took

START = datetime(2026, 3, 1, tzinfo=UTC)
SAVE_S, FLUSH_S = 80e-6, 300e-6


def took(saves: int, began_s: float, rows_s: float, whole_s: float) -> Took:
    began_at = START + timedelta(seconds=began_s)
    return Took(saves, began_at, began_at + timedelta(seconds=rows_s), whole_s)


def one_after_the_other(pace: Pace, batches: int, saves: int, flush_s: float) -> None:
    """Note batches with none beside them."""
    rows_s = saves * SAVE_S
    for number in range(batches):
        pace.note(took(saves, number, rows_s, rows_s + flush_s), was_alone=True)


def side_by_side(pace: Pace, batches: int, saves: int, flush_s: float) -> None:
    """Note batches that began when the one before was over; what we saw of them says nothing."""
    rows_s = saves * SAVE_S
    for number in range(batches):
        pace.note(took(saves, number * (rows_s + flush_s), rows_s, 1.0), was_alone=False)


def test_nothing_is_halved_before_anything_is_known() -> None:
    assert not Pace().is_batch(256)


def test_what_takes_three_flushes_is_a_batch_of_its_own() -> None:
    pace = Pace()
    one_after_the_other(pace, 500, 8, FLUSH_S)
    least = 3 * FLUSH_S / SAVE_S
    assert not pace.is_batch(int(least))
    assert pace.is_batch(int(least) + 1)


def test_a_loop_that_is_busy_now_and_then_is_not_taken_for_a_slow_disk() -> None:
    pace = Pace()
    for number in range(500):
        late_s = 0.01 if number % 10 else 0.0
        pace.note(took(16, number, 16 * SAVE_S, 16 * SAVE_S + FLUSH_S + late_s), was_alone=True)
    assert pace.is_batch(16)


def test_a_server_that_waits_for_us_is_not_taken_for_a_slow_disk() -> None:
    pace = Pace()
    one_after_the_other(pace, 500, 16, FLUSH_S)
    rows_s = 16 * SAVE_S
    for number in range(500):
        pace.note(took(16, number * 0.01, rows_s, rows_s + FLUSH_S), was_alone=False)
    assert pace.is_batch(16)


def test_a_disk_that_becomes_slow_is_noticed_also_where_no_batch_comes_alone() -> None:
    pace = Pace()
    one_after_the_other(pace, 500, 16, FLUSH_S)
    assert pace.is_batch(16)
    side_by_side(pace, 500, 16, 100 * FLUSH_S)
    assert not pace.is_batch(16)
    side_by_side(pace, 2, 16, FLUSH_S)
    assert pace.is_batch(16)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.booleans())
def test_a_clock_that_jumps_leaves_no_trace(jumps: list[float], was_alone: bool) -> None:
    pace, calm = Pace(), Pace()
    for one in (pace, calm):
        one_after_the_other(one, 500, 16, FLUSH_S)
    for before, now in pairwise(jumps):
        jumped = Took(16, START + timedelta(seconds=before), START + timedelta(seconds=now), 0.001)
        pace.note(jumped, was_alone=was_alone)
    one_after_the_other(pace, 500, 16, FLUSH_S)
    assert [pace.is_batch(saves) for saves in range(64)] == [calm.is_batch(saves) for saves in range(64)]
