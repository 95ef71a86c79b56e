"""What tests ask for: a real PostgreSQL, databases, real conversations, and a watched event loop."""

import asyncio
import gc
import importlib
import inspect
import pkgutil
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.schema import migrate
from infrastructure.projections.operating import make_tables
from infrastructure.projections.registry import READ_MODELS
from tests.asking import keeping, query
from tests.loop_watch import LoopWatch
from tests.recorded import recorded_conversations
from tests.untraced import untraced

pytest_plugins = ["pytester"]

TEMPLATE = "migrated"
# No power is lost in a test: what is written need not reach the disk. Never in the product.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "128MB"}
# Where files are in memory, and the bytes that must be free there for the servers of all test processes.
MEMORY, ROOM = Path("/dev/shm"), 8 * 2**30
OURS = ("domain", "application", "infrastructure", "api", "minutebook_client")
WATCH = pytest.StashKey[LoopWatch]()


def pytest_configure() -> None:
    """Hear Ctrl-C also where whoever started the tests does not: what they start inherits it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The library's own way to show an exception, with all variables, keeps an event loop for half a second.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.stdlib.add_log_level, plain])


# ---------------------------------------------------------------- PostgreSQL
@contextmanager
def _temporary_folder(where: Path | None = None) -> Iterator[Path]:
    """A folder outside pytest's own, which pytest closes to other users (the server may be one)."""
    folder = Path(tempfile.mkdtemp(prefix="minutebook-test-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _database(server_url: str, name: str) -> str:
    return server_url.replace("/minutebook?", f"/{name}?")


def _make_template(server_url: str) -> None:
    query(server_url, f"create database {TEMPLATE}")
    migrate(_database(server_url, TEMPLATE))
    make_tables(_database(server_url, TEMPLATE), READ_MODELS)  # as every start does


@contextmanager
def _fresh_database(server_url: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    # A copy of the files takes a sixth of the processor time of a copy through the write-ahead log.
    query(server_url, f"create database {name} template {template} strategy file_copy")
    url = _database(server_url, name)
    try:
        with keeping(url):
            yield url
    finally:
        query(server_url, f"drop database if exists {name} with (force)")


def _memory() -> Path | None:
    """Return where files are in memory, if there is room.

    To make and drop a database for each test takes a quarter of the time there.
    """
    is_roomy = MEMORY.is_mount() and shutil.disk_usage(MEMORY).free >= ROOM
    return MEMORY if is_roomy else None


@contextmanager
def _server(settings: dict[str, str], where: Path | None = None) -> Iterator[str]:
    with _temporary_folder(where) as folder, EmbeddedPostgres(folder, settings=settings) as server:
        url = server.start()
        _make_template(url)
        with keeping(url):
            yield url


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of this test process's PostgreSQL, which does not flush to disk."""
    with _server(NOT_DURABLE, _memory()) as url:
        yield url


@pytest.fixture(scope="session")
def durable_server() -> Iterator[str]:
    """The URL of a second PostgreSQL with the product's own settings: every commit is on disk."""
    with _server({}) as url:
        yield url


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """A fresh, migrated and empty database of the test's own."""
    with _fresh_database(postgres, TEMPLATE) as url:
        yield url


@pytest.fixture
def bare_database_url(postgres: str) -> Iterator[str]:
    """A fresh database of the test's own without any table: what a migration starts from."""
    with _fresh_database(postgres, "template1") as url:
        yield url


@pytest.fixture
def durable_postgres(durable_server: str) -> Iterator[str]:
    """As `database_url`, for tests that need real flushes."""
    with _fresh_database(durable_server, TEMPLATE) as url:
        yield url


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder for servers of the test's own; one that is left running in it is stopped."""
    with _temporary_folder() as folder:
        yield folder
        for data in folder.rglob("postmaster.pid"):
            with EmbeddedPostgres(data.parent.parent):
                pass


# ---------------------------------------------------------------- real conversations
@pytest.fixture(scope="session")
def airline_conversations() -> list[dict[str, Any]]:
    """The recorded conversations, as `{"id", "messages": [...]}`."""
    return recorded_conversations()


# ---------------------------------------------------------------- what is not traced
@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests in a third of the time: untraced, and without a look for garbage. All of it stays."""
    if sys.gettrace():
        _import_ours()
    gc.disable()
    try:
        with untraced():
            return (yield)
    finally:
        gc.collect()
        gc.freeze()  # out of every later collection, too: it is a million objects by now
        gc.enable()


def _import_ours() -> None:
    """Import all that is measured while it is traced."""
    for name in OURS:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let nothing trace a test that is marked `no_cover`."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    with untraced():
        return (yield)


# ---------------------------------------------------------------- nothing blocks the loop
@pytest.fixture(autouse=True)
def unblocked_loop(request: pytest.FixtureRequest) -> None:
    """Fail an async test that blocks its event loop, unless it is marked `may_block("why")`."""
    marker = request.node.get_closest_marker("may_block")
    if marker and not marker.args:
        pytest.fail("may_block needs a reason")
    if not marker and inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("loop_watch")


@pytest.fixture
async def loop_watch(request: pytest.FixtureRequest) -> AsyncIterator[LoopWatch]:
    """The watch on the test's event loop."""
    with LoopWatch(asyncio.get_running_loop()) as watch:
        request.node.stash[WATCH] = watch
        yield watch
    _judge(watch)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a blocked loop fail the test itself; the fixture sees only to what comes after."""
    result = yield
    if watch := pyfuncitem.stash.get(WATCH, None):
        _judge(watch)
    return result


def _judge(watch: LoopWatch) -> None:
    if blocks := watch.take_blocks():
        pytest.fail("\n".join(blocks), pytrace=False)
