"""Dead letters: memories that are not retried any more, how they are selected, their cause.

A dead letter never holds a memory's text: it names the refused content by its hash. A replay
enqueues the memory's key and the batch reads the current row, so an old dead letter can never bring
old content back.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import get_args

from memory_pipeline.domain.outcomes import FailureKind
from memory_pipeline.domain.types import MemoryId, TenantId

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A buried memory: why, since when, and under which model, settings and version.

    A waived dead letter was accepted by an operator for as long as its content has
    ``content_hash``; it is still counted and shown.
    """

    tenant: TenantId
    memory_id: MemoryId
    kind: FailureKind
    first_error: str
    last_error: str
    attempts: int
    first_at: datetime
    last_at: datetime
    buried_at: datetime
    content_hash: str | None
    model: str | None
    config_hash: str | None
    version: str | None
    waived_at: datetime | None
    waived_by: str | None
    waived_because: str | None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters: those that match every given field; None matches all."""

    tenants: Collection[TenantId] | None = None
    kinds: Collection[FailureKind] | None = None
    memory_ids: Collection[MemoryId] | None = None
    older_than_seconds: float | None = None
    waived: bool | None = None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The number of dead letters, of waived ones among them, and the newest."""

    count: int = 0
    waived: int = 0
    newest: tuple[DeadLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class Cause:
    """The model, settings and version that refused a memory: another one may accept it."""

    model: str
    config_hash: str
    version: str

    @classmethod
    def of_now(cls, model: str, config_hash: str) -> "Cause":
        """Return the cause that this process records."""
        return cls(model, config_hash, _version())

    @property
    def word(self) -> str:
        """A digest of all three, for comparison."""
        whole = f"{self.model}\n{self.config_hash}\n{self.version}"
        return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


@cache
def _version() -> str:
    return version("memory-pipeline")  # importlib reads it from disk on each call
