"""What is logged and how: one JSON object a line, nothing of what people said, no keys."""

import logging
import sys

import structlog

_STAMP = structlog.processors.TimeStamper(fmt="iso", utc=True)


def configure(level: str) -> None:
    """Send our own and the libraries' log lines to standard error as JSON."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        _STAMP,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryLines(shared))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These tell what they send, headers and all, at a level below warning.
    for noisy in ("httpx", "httpcore", "openai", "anthropic", "psycopg.pool", "asyncio", "sse_starlette"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


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
