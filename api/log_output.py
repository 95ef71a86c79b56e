"""What is logged and how: one JSON object a line, nothing of what people said, no keys."""

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog

_STAMP: Final = structlog.processors.TimeStamper(fmt="iso", utc=True)
# These tell what they send, headers and all, at a level below warning.
_NOISY: Final = ("httpx", "httpcore", "openai", "anthropic", "psycopg", "asyncio", "sse_starlette")
_FRAMES: Final = 8


def configure(level: str) -> None:
    """Send our own and the libraries' log lines to standard error as JSON."""
    shared: list[structlog.types.Processor] = [structlog.stdlib.add_log_level, _STAMP, _say_what_broke]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryLines(shared))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop's own complaints be lines like all others; asyncio would print the exceptions' texts."""
    loop.set_exception_handler(_log_loop_error)


def _log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger = structlog.get_logger("minutebook.loop")
    logger.error("loop_error", said=context.get("message"), exc_info=context.get("exception"))


def _say_what_broke(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Replace an exception by its kinds and places: its text may quote what somebody said, or a key."""
    given = event.pop("exc_info", None)
    error = _exception_of(given)
    if error is not None:
        event["exception"] = [f"{type(one).__module__}.{type(one).__qualname__}" for one in _chain(error)]
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        event["at"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _exception_of(given: Any) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    return given[1] if isinstance(given, tuple) else sys.exc_info()[1] if given else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _LibraryLines(structlog.stdlib.ProcessorFormatter):
    """Lets through what is JSON already, and makes JSON of what is not."""

    def __init__(self, shared: list[structlog.types.Processor]) -> None:
        super().__init__(
            processors=[self.remove_processors_meta, structlog.processors.JSONRenderer()],
            foreign_pre_chain=shared,
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        ours = isinstance(record.msg, str) and record.msg.startswith("{") and not record.args
        return record.msg if ours else super().format(record)
