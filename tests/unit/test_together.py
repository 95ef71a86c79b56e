"""Who asks together with others is always answered, whenever the one before has just been."""

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from infrastructure.postgres.together import Together

STEPS = st.lists(st.integers(0, 3), min_size=8, max_size=8)


@settings(max_examples=60, deadline=None)
@given(clients=st.integers(2, 8), takes=STEPS, pauses=STEPS)
def test_nobody_is_forgotten_between_the_end_of_one_lane_and_the_start_of_the_next(
    clients: int, takes: list[int], pauses: list[int]
) -> None:
    asyncio.run(_ask_and_pause(clients, takes, pauses))


async def _ask_and_pause(clients: int, takes: list[int], pauses: list[int]) -> None:
    turns = iter(range(10**9))

    async def ask(questions: Sequence[int]) -> Sequence[int]:
        await _steps(takes[next(turns) % len(takes)])
        return questions

    together = Together(ask, most=4, lanes=2)

    async def client(number: int) -> None:
        for question in range(40):
            assert await together.answer(question) == question
            await _steps(pauses[(number + question) % len(pauses)])

    async with asyncio.timeout(10):
        await asyncio.gather(*(client(number) for number in range(clients)))


async def _steps(count: int) -> None:
    """Let the event loop turn this often."""
    for _ in range(count):
        await asyncio.sleep(0)
