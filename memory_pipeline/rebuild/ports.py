"""The protocols that a rebuild needs of Postgres and Chroma. Adapters and fakes satisfy them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    Memory,
    MemoryId,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.maintenance.ports import DroppableCollections, EndedGenerations
from memory_pipeline.ports import Lease, RenewLease
from memory_pipeline.sync.ports import VectorBackup

# ---- one tenant


class Outbox(Protocol):
    """The leases of tenants, and their changes."""

    def acquire_lease(self, tenant: TenantId) -> Lease | None:
        """Acquire the tenant's lease with a new token; None while another worker holds it."""
        ...

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Whether the tenant has a change that can be claimed now."""
        ...

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Enqueue memories as if they had changed."""
        ...


class ChunkMemories(VectorBackup, Protocol):
    """The rows of ``memory_logs`` as chunks read them, and the vectors kept with them."""

    def ids(self, tenant: TenantId, *, after: MemoryId | None = None) -> Iterator[list[MemoryId]]:
        """Iterate over the ids of a tenant's memories after the given one, a page at a time."""
        ...

    def read(self, ids: Sequence[MemoryId]) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        ...

    def get(
        self, tenant: TenantId, ids: Sequence[MemoryId], *, vectors: bool = False
    ) -> dict[MemoryId, Memory]:
        """Return the memories that exist and belong to the tenant."""
        ...

    def versions(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[TenantId | None, str]]:
        """Return the current tenant and version of each of these rows that exists."""
        ...


class RebuildParts(Protocol):
    """The parts of rebuilds, one a tenant, each with one owner; and the lease for a write."""

    @property
    def redo_seconds(self) -> float:
        """Return for how long a request of an interrupted attempt can still reach Chroma."""
        ...

    def acquire_part(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a tenant's part; None where it is done or has another owner."""
        ...

    def part_state(self, rebuild: RebuildId, tenant: TenantId) -> str | None:
        """Return the state of a tenant's part: waiting, running, done or failed."""
        ...

    def renew_part(self, part: RebuildPart) -> None:
        """Extend the ownership. Raises Fenced where another process is the owner."""
        ...

    def release_part(self, part: RebuildPart) -> None:
        """Release a part, so that another process can continue it at once."""
        ...

    def fail_part(self, part: RebuildPart, error: str) -> None:
        """Close a part that has failed."""
        ...

    def may_fill(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        """Whether this owner may fill this generation under this lease."""
        ...

    def return_lease(self, lease: Lease) -> None:
        """Return a lease under which no sync took place."""
        ...


class Rebuilds(RebuildParts, Protocol):
    """The progress of a part: begun or resumed, chunk by chunk, flipped."""

    def checkpoint(self, generation: Generation) -> Checkpoint:
        """Return how far a building generation is filled."""
        ...

    def resume_part(
        self, part: RebuildPart, generation: Generation, checkpoint: Checkpoint
    ) -> None:
        """Continue with a generation from its checkpoint. Raises Fenced."""
        ...

    def register_building(self, part: RebuildPart, lease: Lease, generation: Generation) -> None:
        """Register the building generation; every batch writes it from now on. Raises Fenced."""
        ...

    def record_chunk(
        self,
        part: RebuildPart,
        lease: Lease,
        generation: Generation,
        *,
        through: MemoryId,
        provenance: Mapping[MemoryId, ProvenanceUpdate],
        recheck: Sequence[MemoryId],
        landed: Sequence[MemoryId],
        embedded: int,
    ) -> None:
        """Record a chunk as done, only under the token that wrote it. Raises Fenced."""
        ...

    def flip(
        self, part: RebuildPart, lease: Lease, generation: Generation, *, memories: int
    ) -> None:
        """Direct searches to the building generation; retire the old one. Raises Fenced."""
        ...


class Registry(Protocol):
    """The generations under construction."""

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        ...

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Abandon a generation: no batch writes it any more. Raises Fenced."""
        ...

    def serves_others(self, server: UUID, tenant: TenantId) -> bool:
        """Whether other tenants of this server were synced recently."""
        ...


class Index(Protocol):
    """The collections of building generations. Writes go through ``sync.write``."""

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for its first write."""
        ...

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server whose identity is proven takes a write now."""
        ...


# ---- many tenants


class RebuildRequests(Protocol):
    """Where a rebuild is requested."""

    def request(self, rebuild: RebuildId, tenants: Sequence[TenantId], *, re_embed: bool) -> None:
        """Record the tenants of a rebuild; the parts that exist are not changed."""
        ...


class Tenants(EndedGenerations, Protocol):
    """The registered tenants."""

    def keys(self) -> Mapping[TenantId, str]:
        """Return every tenant with its partition key."""
        ...

    def register(self, tenant: TenantId) -> str:
        """Register a tenant that is not registered; return its partition key."""
        ...


class Sizes(Protocol):
    """How many memories each tenant has."""

    def sizes(self) -> Mapping[TenantId, int]:
        """Count the memories of every tenant that has any."""
        ...


class Servers(DroppableCollections, Protocol):
    """The Chroma servers, and the collections on them that can be dropped."""

    def servers(self) -> Sequence[UUID]:
        """Return the servers in use."""
        ...
