"""Changes of the outbox, and what one claim takes of them."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from uuid import UUID

from memory_pipeline.domain.types import Generation, MemoryId, TenantId


@dataclass(frozen=True, slots=True)
class Change:
    """An outbox row: this memory of this tenant has to be synced (None: all of them, a reset).

    ``age``: seconds from the application's write to the claim; None for a reset, a confirm and a
    recheck, which no application wrote. ``recheck``: the pipeline enqueued it.
    ``waited_seconds``: from its enqueuing, by whomever, to the claim.
    """

    seq: int
    memory_id: MemoryId | None
    age: float | None = None
    recheck: bool = False
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Changes that one token has claimed, with the generations to write them to.

    ``full``: as many changes as one claim takes; more may be pending.
    """

    changes: tuple[Change, ...]
    targets: tuple[Generation, ...]
    full: bool = False

    @property
    def memory_ids(self) -> tuple[MemoryId, ...]:
        """The ids of every memory in the claim, once, in order."""
        return tuple(sorted({c.memory_id for c in self.changes if c.memory_id is not None}))

    def only(self, ids: Collection[MemoryId]) -> "Claim":
        """Return the claim with only the changes of these memories."""
        return replace(self, changes=tuple(c for c in self.changes if c.memory_id in ids))

    def without(self, ids: Collection[MemoryId]) -> "Claim":
        """Return the claim without the changes of these memories."""
        return replace(self, changes=tuple(c for c in self.changes if c.memory_id not in ids))

    def waiting(self, seconds: float) -> frozenset[MemoryId]:
        """Return the memories with a change that had waited for so long when it was claimed."""
        return frozenset(
            c.memory_id
            for c in self.changes
            if c.memory_id is not None and c.waited_seconds >= seconds
        )

    @property
    def resets(self) -> bool:
        """Whether the claim holds a reset: the whole tenant is reconciled."""
        return any(c.memory_id is None for c in self.changes)


@dataclass(frozen=True, slots=True)
class PendingTenant:
    """A tenant with changes that may be claimed now; ``waits_seconds`` is the age of the oldest."""

    tenant: TenantId
    partition_key: str | None
    waits_seconds: float
    server: UUID | None


@dataclass(frozen=True, slots=True)
class RemainingChanges:
    """Changes of a tenant that are not synced.

    ``holder``: the process that has the tenant now, as host:pid:number; None: no process has.
    """

    tenant: TenantId
    changes: int
    holder: str | None


@dataclass(frozen=True, slots=True)
class ExpectedDifferences:
    """Which documents may differ from their memories: a change is pending, or it is buried.

    ``everything``: a reset is pending. ``waived``: the buried memories that an operator waived.
    """

    pending: frozenset[MemoryId]
    buried: frozenset[MemoryId]
    everything: bool
    waived: frozenset[MemoryId] = frozenset()

    def explains(self, memory_id: MemoryId) -> bool:
        """Whether a difference of this memory is no finding."""
        return self.everything or memory_id in self.pending or memory_id in self.buried
