"""What syncing needs from Postgres and Chroma, as narrow protocols."""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.changes import Claim, PendingTenant
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Document,
    Generation,
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    TenantId,
    Vector,
)
from memory_pipeline.ports import Lease, RenewLease

# ---- Postgres


class Outbox(Protocol):
    """The pending changes, and the leases under which they are claimed and acked."""

    def acquire_lease(self, tenant: TenantId) -> Lease | None:
        """Take the tenant's lease with a new token; None while another worker holds it."""
        ...

    def claim(self, lease: Lease) -> Claim:
        """Claim the tenant's oldest changes; schedule confirms for those claimed before."""
        ...

    def ack(
        self,
        lease: Lease,
        claim: Claim,
        *,
        landed: dict[MemoryId, ProvenanceUpdate | None],
        failures: Sequence[Failure],
        missed: Sequence[MemoryId],
        recheck: Sequence[MemoryId],
    ) -> int:
        """Delete the changes that landed, charge the failures; return the number buried."""
        ...

    def newest_seq(self, tenant: TenantId) -> int:
        """Return the number of the tenant's newest change; 0 where it has none."""
        ...

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Enqueue a recheck of these memories."""
        ...

    def unclaim(self, lease: Lease, claim: Claim) -> None:
        """Unclaim changes for which no request was sent."""
        ...

    def release_lease(self, lease: Lease, *, error: str | None = None) -> None:
        """Release the lease; with an error, the tenant pauses, longer each time."""
        ...


class PendingTenants(Protocol):
    """The outbox as a drain sees it."""

    def pending_tenants(self, *, paused: bool = False) -> list[PendingTenant]:
        """Return the tenants with changes, oldest first; ``paused``: those in a pause as well."""
        ...


class VectorBackup(Protocol):
    """Where computed vectors are kept, so that none is computed twice."""

    def back_up(
        self, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> Collection[MemoryId]:
        """Store vectors of rows that have not changed since they were read.

        Returns:
            The memories whose documents need not wait: the vector was stored, or will not be,
            because of the setting or because Postgres refuses it. The others were missed: the row
            has changed, or is locked.

        """
        ...


class TenantRows(Protocol):
    """The rows of ``memory_logs`` as a comparison sees them."""

    def ids(self, tenant: TenantId) -> Iterator[list[MemoryId]]:
        """Iterate over the ids of a tenant's memories, in order, a page at a time."""
        ...

    def of_tenant(self, tenant: TenantId) -> Iterator[Memory]:
        """Iterate over a tenant's memories in id order, without their vectors."""
        ...


class Memories(VectorBackup, TenantRows, Protocol):
    """The rows of ``memory_logs``, and the vectors kept with them."""

    def read(self, ids: Sequence[MemoryId]) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        ...

    def count(self, tenant: TenantId) -> int:
        """Count a tenant's memories."""
        ...


class Registry(Protocol):
    """Tenants and their generations."""

    def register_pending(self, tenant: TenantId) -> bool:
        """Register a new tenant that has a pending change; return whether it was registered."""
        ...

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant use now."""
        ...

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        ...

    def is_being_filled(self, generation: UUID) -> bool:
        """Whether a rebuild under way fills this generation."""
        ...

    def begin_generation(
        self, tenant: TenantId, server: UUID, *, model: str, config_hash: str, memories: int
    ) -> Generation:
        """Record a new generation before its collection exists. Raises ServerLost or Fenced."""
        ...

    def flip_first(self, lease: Lease, generation: Generation) -> None:
        """Make a tenant's first generation live; enqueue the reset that fills it. Raises Fenced."""
        ...

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Mark a generation as damaged, or abandon one that is building. Raises Fenced."""
        ...


class DamagedTenants(Protocol):
    """The registry as a drain sees it."""

    def damaged(self) -> Collection[TenantId]:
        """Return the tenants whose collections wait for a rebuild that no process does."""
        ...


# ---- Chroma


class DocumentWriter(Protocol):
    """A collection as the write of a batch sees it."""

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        add_only: bool = False,
    ) -> None:
        """Write documents and deletes, until the documents are found by their vectors.

        ``add_only``: the documents are new to the collection; a stored one stays as it is.
        """
        ...

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing and cannot be refused. Raises as ``write`` does."""
        ...


class ContentHashes(Protocol):
    """A collection as a comparison sees it."""

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return the content hash of every document in the collection, by document id."""
        ...


class Collections(DocumentWriter, ContentHashes, Protocol):
    """The collections of a tenant, one a generation."""

    def choose_server(self) -> UUID:
        """Choose the server of a new generation."""
        ...

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create the generation's collection; return it with the collection's id."""
        ...

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for the first write after a lease was acquired."""
        ...

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return the documents of a small collection that no query finds."""
        ...


class CollectionProbe(Protocol):
    """Chroma as the search for damage sees it."""

    def check_identity(self, server: UUID) -> None:
        """Check that the registered server answers. Raises ServerLost or ChromaUnavailable."""
        ...

    def takes_writes(self, server: UUID) -> bool:
        """Whether the registered server answers and takes a write now."""
        ...

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing and cannot be refused."""
        ...


class Index(Collections, CollectionProbe, Protocol):
    """All of Chroma that a sync uses."""
