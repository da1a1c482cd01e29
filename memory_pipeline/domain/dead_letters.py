"""Dead letters: memories that were given up, as facts; which of them are meant; what refused them.

A dead letter never holds a memory's text. It names the content that was refused by its hash, and
whoever replays it enqueues the memory's key: the batch reads the row as it stands then, so an old
dead letter can never bring old content back.
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
    """One memory that was given up: why, since when, and under what it was tried last.

    A ``waived`` one was looked at by a person who lets it be, for as long as its content is that
    of ``content_hash``; it is counted and shown all the same.
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
    """Which dead letters are meant: all that every given part fits; None fits all."""

    tenants: Collection[TenantId] | None = None
    kinds: Collection[FailureKind] | None = None
    memory_ids: Collection[MemoryId] | None = None
    older_than_seconds: float | None = None
    waived: bool | None = None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """How many dead letters there are, how many of them are waived, and the newest of them."""

    count: int = 0
    waived: int = 0
    newest: tuple[DeadLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class Cause:
    """Under what a memory was refused: whatever of it changes may have been to blame."""

    model: str
    config_hash: str
    version: str

    @classmethod
    def of_now(cls, model: str, config_hash: str) -> "Cause":
        """Return the cause of what this process refuses."""
        return cls(model, config_hash, _version())

    @property
    def word(self) -> str:
        """All of it in one short word, to be compared."""
        whole = f"{self.model}\n{self.config_hash}\n{self.version}"
        return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


@cache
def _version() -> str:
    return version("memory-pipeline")  # read from disk each time that it is asked for
