"""A node on a real PostgreSQL, and another one beside it."""

from collections.abc import AsyncIterator

import pytest

from application.ports import Turns
from infrastructure.postgres.pool import Pool, open_pool
from infrastructure.postgres.turns import PostgresTurns
from tests.integration.node import Store
from tests.integration.saves import appending
from tests.integration.turn_helpers import LEASE_S


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_pool(database_url, min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
def turns(pool: Pool) -> Turns:
    return PostgresTurns(pool, "node-1", LEASE_S)


@pytest.fixture
def elsewhere(pool: Pool) -> Turns:
    return PostgresTurns(pool, "node-2", LEASE_S)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_pool(database_url, min_size=1, max_size=4) as pool, appending(database_url) as appender:
        yield Store(pool, appender)
