"""The protocols that a verify needs of Postgres and Chroma. Adapters and fakes satisfy them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from memory_pipeline.domain.changes import ExpectedDifferences
from memory_pipeline.domain.types import (
    Generation,
    Memory,
    MemoryId,
    MetadataValue,
    Stored,
    TenantId,
    Vector,
)
from memory_pipeline.ports import RenewLease


class Memories(Protocol):
    """The rows of ``memory_logs``."""

    def count(self, tenant: TenantId) -> int:
        """Count a tenant's memories."""
        ...

    def ids(self, tenant: TenantId) -> Iterator[list[MemoryId]]:
        """Iterate over the ids of a tenant's memories, in order, a page at a time."""
        ...

    def read(
        self, ids: Sequence[MemoryId], *, vectors: bool = True
    ) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, of any tenant, and the ids that one read had no room for."""
        ...

    def get(
        self, tenant: TenantId, ids: Sequence[MemoryId], *, vectors: bool = False
    ) -> dict[MemoryId, Memory]:
        """Return those of these memories that exist and are the tenant's."""
        ...

    def versions(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[TenantId | None, str]]:
        """Return the tenant and the version of each of these rows that exists."""
        ...


class Outbox(Protocol):
    """The changes that explain a difference."""

    def pending(self, tenant: TenantId) -> int:
        """Count the tenant's changes."""
        ...

    def expected_differences(
        self, tenant: TenantId, memory_ids: Sequence[MemoryId]
    ) -> ExpectedDifferences:
        """Return which of these memories may differ now, and why."""
        ...


class Index(Protocol):
    """The documents of a generation's collection."""

    def pages(
        self, generation: Generation, *, renew: RenewLease
    ) -> Iterator[list[tuple[str, Mapping[str, MetadataValue]]]]:
        """Iterate over the ids and metadata of all documents, a page at a time."""
        ...

    def fetch(
        self,
        generation: Generation,
        ids: Sequence[MemoryId],
        *,
        seconds: float,
        whole: bool = False,
    ) -> dict[MemoryId, Stored]:
        """Return what is stored for these memories; with vectors and texts where ``whole``."""
        ...

    def reachable_ids(self, generation: Generation, count: int, *, seconds: float) -> Sequence[str]:
        """Return the ids of all documents that a query with no end returns."""
        ...

    def unreachable_by_vector(
        self, generation: Generation, vectors: Mapping[MemoryId, Vector], *, seconds: float
    ) -> set[MemoryId]:
        """Return the documents that a query by their own vector does not return, twins apart."""
        ...


class Registry(Protocol):
    """The generations of a tenant."""

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant use now."""
        ...

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        ...


class Rechecks(Protocol):
    """Where a repair enqueues the memories that differ."""

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Enqueue memories as if they had changed."""
        ...

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Whether the tenant has a change that can be claimed now."""
        ...
