"""Logging: one structured line a decision. No document text, no secret, ever.

An event is a snake_case verb in the past tense. A line of level warning or worse about a tenant, a
generation or a server names it; each says in ``next=`` what happens next.

The lines go through the standard library, so an application that uses the store decides which it
shows; until it does, it shows warnings and worse.
"""

import logging
import sys
from typing import Any, Literal

import structlog

from memory_pipeline.domain.partition_keys import partition_keys
from memory_pipeline.domain.types import TenantId

ROOT = "memory_pipeline"

TenantNames = Literal["name", "key"]
"""What log lines call a tenant: its name, or its Dagster partition key."""


class _TenantField:
    """A processor that writes ``tenant=`` as the settings say; one for the process."""

    def __init__(self) -> None:
        self.shows: TenantNames = "name"

    def __call__(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Replace the tenant's name by its partition key, or leave it."""
        tenant = event.get("tenant")
        if self.shows == "key" and isinstance(tenant, str):
            event["tenant"] = next(partition_keys(TenantId(tenant)))
        return event


_tenant_field = _TenantField()


def get_logger(name: str) -> Any:
    """Return a logger that writes ``event key=value …`` lines."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _tenant_field,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configure_logging(*, quiet: bool = False, tenants: TenantNames = "name") -> None:
    """Log to standard error: every decision, or when quiet only warnings and worse.

    Args:
        quiet: leave out the decisions.
        tenants: ``key`` for logs that others read. The key of a name without special characters
            is the name itself, and a reason may quote a name: neither is anonymous.

    """
    _tenant_field.shows = tenants
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    # The pool logs each failed attempt; the error that reaches the caller is enough.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
