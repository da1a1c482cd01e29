"""Keeps one ChromaDB collection per tenant true to the memories in Postgres.

What stands in ``__all__`` is public; everything else may change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memory_pipeline.domain.types import Hit
    from memory_pipeline.errors import (
        ChromaUnavailable,
        InvalidFilter,
        InvalidMemory,
        PipelineError,
        PostgresUnavailable,
    )
    from memory_pipeline.settings import Settings
    from memory_pipeline.store import MemoryStore

__version__ = "0.1.0"

__all__ = [
    "ChromaUnavailable",
    "Hit",
    "InvalidFilter",
    "InvalidMemory",
    "MemoryStore",
    "PipelineError",
    "PostgresUnavailable",
    "Settings",
]

_ROOMS = {
    "Hit": "memory_pipeline.domain.types",
    "MemoryStore": "memory_pipeline.store",
    "Settings": "memory_pipeline.settings",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a Dagster tick does not pay for the store."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_ROOMS.get(name, "memory_pipeline.errors")), name)
