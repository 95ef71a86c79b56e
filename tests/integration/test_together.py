"""What is asked together is answered each for itself."""

import asyncio
from collections.abc import Sequence

import pytest

from application.errors import StoreUnavailableError
from infrastructure.postgres.together import Together


class Refused(Exception):  # noqa: N818 (a test's own)
    pass


async def test_what_arrives_during_a_batch_makes_the_next_one() -> None:
    asked: list[list[int]] = []

    async def ask(questions: Sequence[int]) -> list[int]:
        asked.append(list(questions))
        await asyncio.sleep(0.01)
        return [question * 2 for question in questions]

    together = Together(ask, most=4, lanes=1)
    answers = await asyncio.gather(*(together.answer(number) for number in range(10)))
    assert answers == [number * 2 for number in range(10)]
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_what_is_wrong_with_one_stays_with_it() -> None:
    async def ask(questions: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        if 3 in questions:
            raise Refused
        return list(questions)

    together = Together(ask, lanes=1)
    answers = await asyncio.gather(*(together.answer(number) for number in range(6)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, int, int, Refused, int, int]


async def test_a_database_that_is_gone_is_asked_once_for_all() -> None:
    times = 0

    async def ask(questions: Sequence[int]) -> list[int]:
        nonlocal times
        times += 1
        await asyncio.sleep(0)
        raise StoreUnavailableError

    together = Together(ask, lanes=1)
    answers = await asyncio.gather(*(together.answer(number) for number in range(6)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailableError}
    assert times == 1


async def test_nobody_waits_for_one_who_left() -> None:
    async def ask(questions: Sequence[int]) -> list[int]:
        await asyncio.sleep(0.02)
        return list(questions)

    together = Together(ask, lanes=1)
    first = asyncio.create_task(together.answer(1))
    second = asyncio.create_task(together.answer(2))
    await asyncio.sleep(0.005)
    first.cancel()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first
