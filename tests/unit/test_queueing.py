"""The line in front of a busy conversation: first come, first served, and nobody is forgotten."""

import asyncio

from application.queueing import Place, Queues


async def stand(
    queues: Queues, name: str, served: list[str], leave: asyncio.Event, patience_s: float = 5
) -> None:
    """Stand in line; be served when first, and leave when told to."""
    async with queues.place("c", patience_s) as place:
        served.append(name if place.is_first else f"{name} gave up")
        await leave.wait()


async def test_whoever_came_first_goes_first() -> None:
    queues, served = Queues(), list[str]()
    leaves = [asyncio.Event() for _ in range(4)]
    tasks = []
    for n, leave in enumerate(leaves):
        tasks.append(asyncio.create_task(stand(queues, str(n), served, leave)))
        await asyncio.sleep(0)
    for n, leave in enumerate(leaves):
        await asyncio.sleep(0.01)
        assert served == [str(m) for m in range(n + 1)]
        leave.set()
    await asyncio.gather(*tasks)


async def test_one_who_gives_up_or_goes_away_lets_the_next_one_through() -> None:
    queues, served = Queues(), list[str]()
    first, never = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(stand(queues, "a", served, first))
    await asyncio.sleep(0)
    impatient = asyncio.create_task(stand(queues, "b", served, never, patience_s=0.01))
    gone = asyncio.create_task(stand(queues, "c", served, never))
    last = asyncio.create_task(stand(queues, "d", served, first))
    await asyncio.sleep(0.05)
    gone.cancel()
    impatient.cancel()
    first.set()
    await asyncio.wait_for(asyncio.gather(holder, last), 1)
    assert served == ["a", "b gave up", "d"]


async def test_lines_of_different_conversations_do_not_meet() -> None:
    queues = Queues()
    async with queues.place("c", 5) as one, queues.place("d", 5) as other:
        assert one.is_first
        assert other.is_first


async def test_nothing_is_kept_of_a_line_in_which_nobody_stands() -> None:
    queues = Queues()
    async with queues.place("c", 5):
        pass
    assert queues._lines == {}
    queues.wake("c")


async def test_a_wake_that_comes_before_the_wait_is_not_lost() -> None:
    place = Place()
    place.wake()
    await asyncio.wait_for(place.wait(60), 1)


async def test_the_first_in_line_is_woken_when_the_conversation_is_free() -> None:
    queues = Queues()
    async with queues.place("c", 5) as place:
        asyncio.get_running_loop().call_later(0.01, queues.wake, "c")
        await asyncio.wait_for(place.wait(60), 1)
