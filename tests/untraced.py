"""What is not traced where coverage is measured: that takes several times as long."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Others' code takes most of the time of all imports, and nobody measures it.
LIBRARIES = (
    "cryptography.hazmat.primitives.ciphers.aead", "eventsourcing.postgres",
    "fastapi", "hypothesis", "openai", "prometheus_client", "psycopg_pool", "pyarrow.parquet",
    "pydantic_ai.direct", "pydantic_ai.models.openai", "pydantic_settings", "pymerkle", "sse_starlette",
    "structlog", "typer", "uvicorn", "uvloop", "websockets.sync.client",
)  # fmt: skip


@contextmanager
def untraced() -> Iterator[None]:
    """Let nothing trace the block.

    pytest-cov starts coverage twice in a worker of pytest-xdist, and stops it once for a test that is marked
    `no_cover`.
    """
    tracing, tracing_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracing)
        threading.settrace(tracing_threads)


def import_libraries() -> None:
    """Import what others wrote before anybody imports it traced."""
    if sys.gettrace():
        with untraced():
            for name in LIBRARIES:
                importlib.import_module(name)
