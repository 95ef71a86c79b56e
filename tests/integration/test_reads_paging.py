"""Pages stay true while rows arrive: nothing is shown twice, and nothing that stood still is left out."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.queries import Answer, ConversationFilter, Page, Range
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.projections.conversation_list import ConversationList, PostgresConversationList
from infrastructure.projections.pending_approvals import PendingApprovals, PostgresApprovals
from infrastructure.projections.transcript import Transcript
from infrastructure.projections.transcript_queries import PostgresTranscripts
from tests.projecting import store
from tests.reading import asks, catch_up, of, says

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

NUMBERS = count(1)
# What happens before each next page: news in conversations, by number; one that is not there is new.
MEANWHILE = st.lists(st.lists(st.integers(0, 11), max_size=4), min_size=10, max_size=10)
PROPERTY = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Ask = Callable[[Pool, int | None], Awaitable[Answer[Page[Any] | None]]]


class Crowd:
    """Somebody with eight conversations, in which things go on happening."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.owner = f"owner{next(NUMBERS)}"
        self._versions: dict[int, int] = {}
        self.touched: set[str] = set()
        for number in range(8):
            self.happen(number)
        self.touched.clear()

    def name(self, number: int) -> str:
        return f"{self.owner}-{number}"

    def happen(self, number: int) -> None:
        """Let somebody say something and an agent ask, or start the conversation."""
        began = of(self.owner, self.name(number), says("hello"), asks(f"call-{next(NUMBERS)}"))
        news = began if number not in self._versions else self._renumbered(number, began[-2:])
        self._versions[number] = self._versions.get(number, 0) + len(began)
        store(self._url, news)
        self.touched.add(self.name(number))

    def _renumbered(self, number: int, events: list[NewEvent]) -> list[NewEvent]:
        base = self._versions[number] + 100
        return [replace(event, version=base + step) for step, event in enumerate(events)]


def all_pages(url: str, ask: Ask, place_of: Callable[[Any], int], meanwhile: Callable[[], None]) -> list[Any]:
    """Read page by page, and let things happen before each next page."""

    async def ask_once(place: int | None) -> Page[Any]:
        async with open_pool(url, min_size=1, max_size=1) as pool:
            page = (await ask(pool, place)).value
            assert page is not None
            return page

    found: list[Any] = []
    while True:
        page = asyncio.run(ask_once(place_of(found[-1]) if found else None))
        found += page.items
        if not page.more:
            return found
        meanwhile()


@PROPERTY
@given(steps=MEANWHILE)
def test_no_conversation_is_listed_twice_and_none_that_stood_still_is_missed(
    database_url: str, steps: list[list[int]]
) -> None:
    crowd, plan = Crowd(database_url), iter(steps)
    model = ConversationList()
    catch_up(database_url, model)

    def ask(pool: Pool, place: int | None) -> Awaitable[Answer[Page[Any] | None]]:
        return PostgresConversationList(pool).page(crowd.owner, ConversationFilter(), place, 2)

    def meanwhile() -> None:
        for number in next(plan, []):
            crowd.happen(number)
        catch_up(database_url, model)

    found = all_pages(database_url, ask, lambda one: one.last_position, meanwhile)
    names = [one.conversation_id for one in found]
    assert len(names) == len(set(names))
    still = [crowd.name(n) for n in range(7, -1, -1) if crowd.name(n) not in crowd.touched]
    assert [name for name in names if name in still] == still


@PROPERTY
@given(steps=MEANWHILE)
def test_an_approval_is_listed_once_also_while_others_arrive(
    database_url: str, steps: list[list[int]]
) -> None:
    crowd, plan = Crowd(database_url), iter(steps)
    model = PendingApprovals()
    catch_up(database_url, model)

    def ask(pool: Pool, place: int | None) -> Awaitable[Answer[Page[Any] | None]]:
        return PostgresApprovals(pool).page(crowd.owner, place, 3)

    def meanwhile() -> None:
        for number in next(plan, []):
            crowd.happen(number)
        catch_up(database_url, model)

    positions = [one.position for one in all_pages(database_url, ask, lambda one: one.position, meanwhile)]
    assert positions == sorted(set(positions))
    assert len(positions) >= 8  # the oldest first: what arrives comes behind what is read


@PROPERTY
@given(steps=MEANWHILE, newest_first=st.booleans())
def test_a_transcript_that_grows_is_read_whole_from_either_end(
    database_url: str, steps: list[list[int]], newest_first: bool
) -> None:
    crowd, plan = Crowd(database_url), iter(steps)
    for _ in range(3):
        crowd.happen(0)
    model = Transcript()
    catch_up(database_url, model)

    def ask(pool: Pool, place: int | None) -> Awaitable[Answer[Page[Any] | None]]:
        wanted = Range(before=place, newest_first=True) if newest_first else Range(after=place)
        return PostgresTranscripts(pool).page(crowd.owner, crowd.name(0), wanted, 2)

    def meanwhile() -> None:
        for _ in next(plan, []):
            crowd.happen(0)
        catch_up(database_url, model)

    def whole() -> list[int]:
        return [one.position for one in all_pages(database_url, ask, lambda one: one.position, lambda: None)]

    before = whole()
    found = [one.position for one in all_pages(database_url, ask, lambda one: one.position, meanwhile)]
    assert found == (before if newest_first else whole())
