"""Logging: one structured line a decision. No document text, no secret, ever.

The lines go through the standard library, so an application that uses the store decides what it
sees; until it does, it sees warnings and nothing else.
"""

import logging
import sys
from typing import Any

import structlog

ROOT = "memory_pipeline"


def get_logger(name: str) -> Any:
    """Return a logger that writes ``event key=value …`` lines."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configure_logging(*, quiet: bool = False) -> None:
    """Log to standard error: all decisions, or when quiet only warnings and worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    # The pool repeats each failed attempt; the error that reaches the caller says it once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
