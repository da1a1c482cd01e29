"""What the heart needs from the world, as small protocols. Implementations live in their rooms.

``postgres/`` implements Outbox and Memories, ``chroma/`` implements Index, ``embedding.py``
implements Embedder. Tests implement them as fakes, checked by the same contract tests.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.model import (
    Claim,
    Document,
    Failure,
    Generation,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
    Token,
    Vector,
)

Hold = Callable[[], float]
"""Renew the lease; return the seconds that the next call may take. Raises Fenced."""


class Lease(Protocol):
    """One worker's exclusive right to write a tenant's collections, for a few seconds."""

    @property
    def tenant(self) -> TenantId:
        """Whose collections."""
        ...

    @property
    def token(self) -> Token:
        """The number that every write to Postgres names."""
        ...

    def hold(self) -> float:
        """Renew; return the seconds that the next call may take. Raises Fenced."""
        ...


class Outbox(Protocol):
    """Changes that wait, and the leases under which they are claimed and acked."""

    def take(self, tenant: TenantId) -> Lease | None:
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
        landed: dict[MemoryId, Provenance | None],
        failures: Sequence[Failure],
        missed: Sequence[MemoryId],
        again: Sequence[MemoryId],
    ) -> int:
        """Forget what landed, charge what failed; return how many were buried."""
        ...

    def let_go(self, lease: Lease, claim: Claim) -> None:
        """Give changes back for which nothing was sent."""
        ...

    def release(self, lease: Lease, *, error: str | None = None) -> None:
        """Give the lease back; with an error, not before a pause that grows."""
        ...


class Memories(Protocol):
    """The rows of ``memory_logs``, read by id, and their embedding backup."""

    def read(self, ids: Sequence[MemoryId]) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
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


class Embedder(Protocol):
    """Text to vectors."""

    @property
    def loaded(self) -> bool:
        """Whether ``embed`` would start at once."""
        ...

    def load(self) -> None:
        """Load the model; may take many seconds. Raises ModelMissing or EmbedderUnavailable."""
        ...

    @property
    def model(self) -> str:
        """The fingerprint of the model: name, revision, dimension, normalisation."""
        ...

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Return one vector a text, in order. Raises Poison or EmbedderUnavailable."""
        ...


class Index(Protocol):
    """Collections of documents, one a generation."""

    def recognise(self) -> None:
        """Check that the servers are who they are. Raises ServerLost or ChromaUnavailable."""
        ...

    def place(self) -> UUID:
        """Choose the server of a new generation."""
        ...

    def create(self, generation: Generation, *, memories: int, hold: Hold) -> Generation:
        """Create the generation's collection; return it with the collection's id."""
        ...

    def prime(self, generation: Generation, *, hold: Hold) -> None:
        """Prepare a collection for the first write after a lease was taken."""
        ...

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        hold: Hold,
    ) -> None:
        """Bring the documents and deletes into the collection, findable by their vectors."""
        ...

    def control(self, generation: Generation, *, hold: Hold) -> None:
        """Send a write that changes nothing and cannot be refused. Raises what the write raises."""
        ...

    def hashes(self, generation: Generation, *, hold: Hold) -> dict[str, str]:
        """Return document id to content hash of all that the collection holds."""
        ...


class Registry(Protocol):
    """Tenants and the generations that they search."""

    def register(self, tenant: TenantId) -> str:
        """Register a tenant unless it is; return its partition key."""
        ...

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant go to now."""
        ...

    def begin(self, tenant: TenantId, server: UUID, *, model: str, config_hash: str) -> Generation:
        """Note a new generation before its collection exists."""
        ...

    def go_live(self, lease: Lease, generation: Generation) -> None:
        """Make a tenant's first generation live and enqueue the reset that fills it."""
        ...

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Stop using a damaged generation."""
        ...

    def recently_abandoned(self, tenant: TenantId) -> int:
        """Count the tenant's generations that were found damaged within the last hour."""
        ...
