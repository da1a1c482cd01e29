"""Changes of the outbox, and what one claim takes of them."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from uuid import UUID

from memory_pipeline.domain.types import Generation, MemoryId, TenantId


@dataclass(frozen=True, slots=True)
class Change:
    """An outbox row: this memory of this tenant is to be looked at again (None: all of them).

    ``age``: seconds since the memory was written, when the change was claimed; None where it was
    not: a reset, a confirm. ``again``: it was enqueued by us, to look at a memory again.
    """

    seq: int
    memory_id: MemoryId | None
    age: float | None = None
    recheck: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Changes that one token has claimed, with the generations to write them to.

    ``full``: as many as one claim takes; more of them may stand.
    """

    changes: tuple[Change, ...]
    targets: tuple[Generation, ...]
    full: bool = False

    @property
    def memory_ids(self) -> tuple[MemoryId, ...]:
        """Every memory concerned, once, in id order."""
        return tuple(sorted({c.memory_id for c in self.changes if c.memory_id is not None}))

    def only(self, ids: Collection[MemoryId]) -> "Claim":
        """Return the part of the claim that is about these memories."""
        return replace(self, changes=tuple(c for c in self.changes if c.memory_id in ids))

    def without(self, ids: Collection[MemoryId]) -> "Claim":
        """Return the part of the claim that is not about these memories."""
        return replace(self, changes=tuple(c for c in self.changes if c.memory_id not in ids))

    @property
    def resets(self) -> bool:
        """Whether the whole tenant is to be reconciled."""
        return any(c.memory_id is None for c in self.changes)


@dataclass(frozen=True, slots=True)
class PendingTenant:
    """A tenant with changes that may be claimed now."""

    tenant: TenantId
    partition_key: str | None
    waits_seconds: float
    server: UUID | None


@dataclass(frozen=True, slots=True)
class ExpectedDifferences:
    """Why documents may differ from their memories: a change waits, or the memory is buried.

    ``waived`` are those of the buried ones that a person lets be.
    """

    pending: frozenset[MemoryId]
    buried: frozenset[MemoryId]
    everything: bool
    waived: frozenset[MemoryId] = frozenset()

    def cover(self, memory_id: MemoryId) -> bool:
        """Whether a difference of this memory is no finding."""
        return self.everything or memory_id in self.pending or memory_id in self.buried
