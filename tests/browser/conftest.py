"""What the browser tests ask for: one Chromium for all of them, and a server to look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, chromium
from tests.browser.story import Console
from tests.serving import ServerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one test process have the one browser: a second one costs more than it saves."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="session")
def chromium_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium for all tests."""
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def browser(chromium_of_all: Browser) -> Iterator[Browser]:
    """The browser; pages of it know nothing of one another, and are closed after the test."""
    yield chromium_of_all
    chromium_of_all.close_pages()


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process as users run it, its demo model a little faster than life."""
    with ServerProcess(tmp_path, database_url=database_url, demo_delay_s=0.01, lease_s=3) as running:
        yield running


@pytest.fixture
def console(browser: Browser, server: ServerProcess) -> Console:
    """The console in a page of its own, opened at the beginning."""
    opened = Console(browser.page(), server.url)
    opened.open()
    return opened
