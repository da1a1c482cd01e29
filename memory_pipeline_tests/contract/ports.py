"""What both sides of a contract test satisfy: each method that any package of the core calls."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Checkpoint,
    Document,
    Generation,
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    TenantId,
    Vector,
)
from memory_pipeline.ports import Lease, RenewLease


class Outbox(Protocol):
    """Changes that wait, and the leases under which they are claimed and acked."""

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
        """Forget what landed, charge what failed; return how many were buried."""
        ...

    def newest_seq(self, tenant: TenantId) -> int:
        """Return the number of the tenant's newest change; 0 where it has none."""
        ...

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Whether the tenant has a change that could be claimed now."""
        ...

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Have memories looked at again, as if they had changed."""
        ...

    def unclaim(self, lease: Lease, claim: Claim) -> None:
        """Give changes back for which nothing was sent."""
        ...

    def release_lease(self, lease: Lease, *, error: str | None = None) -> None:
        """Give the lease back; with an error, not before a pause that grows."""
        ...


class Memories(Protocol):
    """The rows of ``memory_logs``, read by id, and their embedding backup."""

    def read(
        self, ids: Sequence[MemoryId], *, vectors: bool = True
    ) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        ...

    def versions(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[TenantId | None, str]]:
        """Return whose each of these rows is now, and its version; nothing of those that went."""
        ...

    def ids(self, tenant: TenantId, *, after: MemoryId | None = None) -> Iterator[list[MemoryId]]:
        """Walk through the ids of a tenant's memories, in order, a page at a time."""
        ...

    def get(
        self, tenant: TenantId, ids: Sequence[MemoryId], *, vectors: bool = False
    ) -> dict[MemoryId, Memory]:
        """Return those of these memories that exist and are the tenant's."""
        ...

    def of_tenant(self, tenant: TenantId) -> Iterator[Memory]:
        """Walk through a tenant's memories in id order, without their vectors."""
        ...

    def count(self, tenant: TenantId) -> int:
        """Count a tenant's memories."""
        ...

    def back_up(
        self, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> frozenset[MemoryId]:
        """Store vectors where the row is still the one that was read; return those that are."""
        ...


class Registry(Protocol):
    """Tenants and the generations that they search."""

    def register(self, tenant: TenantId) -> str:
        """Register a tenant unless it is; return its partition key."""
        ...

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant go to now."""
        ...

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        ...

    def serves_others(self, server: UUID, tenant: TenantId) -> bool:
        """Whether other tenants of this server were synced of late."""
        ...

    def is_being_filled(self, generation: UUID) -> bool:
        """Whether a rebuild under way fills this generation."""
        ...

    def begin_generation(
        self, tenant: TenantId, server: UUID, *, model: str, config_hash: str, memories: int
    ) -> Generation:
        """Note a new generation before its collection exists."""
        ...

    def flip_first(self, lease: Lease, generation: Generation) -> None:
        """Make a tenant's first generation live and enqueue the reset that fills it."""
        ...

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Mark a damaged generation; stop writing to it, and give it up if it was building."""
        ...


class Rebuilds(Protocol):
    """The parts of rebuilds, one a tenant: who fills which generation, and how far."""

    @property
    def redo_seconds(self) -> float:
        """How long a chunk waits that may have been written, before it is written again."""
        ...

    def acquire_part(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a tenant's part; None where it is done or somebody else's."""
        ...

    def part_state(self, rebuild: RebuildId, tenant: TenantId) -> str | None:
        """Tell how far a rebuild is with a tenant: waiting, running, done or failed."""
        ...

    def renew_part(self, part: RebuildPart) -> None:
        """Go on being the owner. Raises Fenced where somebody else is by now."""
        ...

    def checkpoint(self, generation: Generation) -> Checkpoint:
        """Tell how far a building generation was filled."""
        ...

    def resume_part(
        self, part: RebuildPart, generation: Generation, checkpoint: Checkpoint
    ) -> None:
        """Go on with a generation from where it was left. Raises Fenced."""
        ...

    def register_building(self, part: RebuildPart, lease: Lease, generation: Generation) -> None:
        """Make a generation the building one, which every batch writes too. Raises Fenced."""
        ...

    def may_fill(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        """Whether this generation is still the one to fill, by this owner, under this lease."""
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
        """Let searches go to the building generation; retire the old one. Raises Fenced."""
        ...

    def return_lease(self, lease: Lease) -> None:
        """Give a lease back under which no sync took place."""
        ...

    def release_part(self, part: RebuildPart) -> None:
        """Leave a part to whoever goes on with the rebuild."""
        ...

    def fail_part(self, part: RebuildPart, error: str) -> None:
        """Close a part that did not end well."""
        ...


class Index(Protocol):
    """Collections of documents, one a generation."""

    def check_identity(self, server: UUID) -> None:
        """Check that a server is who it is. Raises ServerLost or ChromaUnavailable."""
        ...

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server that is who it should be takes a write now."""
        ...

    def choose_server(self) -> UUID:
        """Choose the server of a new generation."""
        ...

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create the generation's collection; return it with the collection's id."""
        ...

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for the first write after a lease was taken."""
        ...

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        add_only: bool = False,
    ) -> None:
        """Bring the documents and deletes into the collection, findable by their vectors.

        ``add_only``: the documents are new to the collection; a document that exists already stays.
        """
        ...

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing and cannot be refused. Raises what the write raises."""
        ...

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return documents of a small collection that no query lists, whatever it asks for."""
        ...

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return document id to content hash of all that the collection holds."""
        ...
