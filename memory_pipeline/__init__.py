"""Keeps one ChromaDB collection per tenant true to the memories in Postgres.

The names in ``__all__`` are public; everything else may change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memory_pipeline.domain.erasure import Erasure, Place
    from memory_pipeline.domain.types import Hit
    from memory_pipeline.errors import (
        ChromaUnavailable,
        ConfigurationChanged,
        ContractError,
        Corrupt,
        EmbedderUnavailable,
        InvalidFilter,
        InvalidMemory,
        MemoriesRemain,
        ModelMissing,
        PipelineError,
        Poison,
        PostgresUnavailable,
        ServerLost,
        SettingsError,
        Transient,
    )
    from memory_pipeline.settings import Settings
    from memory_pipeline.store import MemoryStore

    __version__: str

__all__ = [
    "ChromaUnavailable",
    "ConfigurationChanged",
    "ContractError",
    "Corrupt",
    "EmbedderUnavailable",
    "Erasure",
    "Hit",
    "InvalidFilter",
    "InvalidMemory",
    "MemoriesRemain",
    "MemoryStore",
    "ModelMissing",
    "PipelineError",
    "Place",
    "Poison",
    "PostgresUnavailable",
    "ServerLost",
    "Settings",
    "SettingsError",
    "Transient",
]

# Where each public name is defined.
_MODULES = {
    "ChromaUnavailable": "memory_pipeline.errors",
    "ConfigurationChanged": "memory_pipeline.errors",
    "ContractError": "memory_pipeline.errors",
    "Corrupt": "memory_pipeline.errors",
    "EmbedderUnavailable": "memory_pipeline.errors",
    "Erasure": "memory_pipeline.domain.erasure",
    "Hit": "memory_pipeline.domain.types",
    "InvalidFilter": "memory_pipeline.errors",
    "InvalidMemory": "memory_pipeline.errors",
    "MemoriesRemain": "memory_pipeline.errors",
    "MemoryStore": "memory_pipeline.store",
    "ModelMissing": "memory_pipeline.errors",
    "PipelineError": "memory_pipeline.errors",
    "Place": "memory_pipeline.domain.erasure",
    "Poison": "memory_pipeline.errors",
    "PostgresUnavailable": "memory_pipeline.errors",
    "ServerLost": "memory_pipeline.errors",
    "Settings": "memory_pipeline.settings",
    "SettingsError": "memory_pipeline.errors",
    "Transient": "memory_pipeline.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a Dagster tick does not pay for the store."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - see above

        return version("memory-pipeline")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names too, for completion."""
    return sorted({*globals(), *_MODULES, "__version__"})
