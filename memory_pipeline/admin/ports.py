"""The protocols that admin needs of Postgres and Chroma. Adapters and fakes satisfy them."""

from collections.abc import Iterator, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.erasure import PendingErasure, Place, Traces
from memory_pipeline.domain.status import ActiveWork, WorkerInfo
from memory_pipeline.domain.types import Generation, MemoryId, Server, TenantId
from memory_pipeline.maintenance.ports import DroppableCollections
from memory_pipeline.ports import Lease

# ---- detach


class Attachment(Protocol):
    """What the pipeline has installed in the database, removed step by step."""

    def is_attached(self) -> bool:
        """Whether anything of the pipeline is installed."""
        ...

    def active_work(self) -> ActiveWork:
        """Count the rebuilds and syncs in progress."""
        ...

    def triggers(self) -> Sequence[str]:
        """Name the triggers that would be dropped."""
        ...

    def vectors(self) -> int:
        """Count the vectors that go with the schema."""
        ...

    def check(self) -> None:
        """Check that nothing of another owner depends on the schema. Raises ContractError."""
        ...

    def stop_capture(self) -> None:
        """Drop the triggers. Raises ContractError."""
        ...

    def stop_syncing(self) -> None:
        """Delete the changes, and fence every lease."""
        ...

    def generations(self, server: UUID) -> Sequence[Generation]:
        """Return the generations that may have a collection on a server."""
        ...

    def drop_schema(self) -> None:
        """Drop the schema. Raises ContractError."""
        ...


class Workers(Protocol):
    """The worker processes."""

    def healthy(self) -> Sequence[WorkerInfo]:
        """Return the workers with a recent heartbeat."""
        ...


class Registry(Protocol):
    """The registered servers and generations."""

    def servers(self) -> Sequence[Server]:
        """Return every registered server."""
        ...

    def dropped(self, generation: UUID) -> None:
        """Record that a generation's collection is dropped."""
        ...


class Servers(Protocol):
    """The Chroma servers."""

    def problems(self) -> Sequence[str]:
        """Probe every address; return a line for each problem."""
        ...

    def check_identity(self) -> None:
        """Identify the server at each address again. Raises ChromaUnavailable."""
        ...

    def remove_marker(self, server: UUID) -> None:
        """Remove the marker of this installation from a server. Raises ChromaUnavailable."""
        ...


class ForgottenCollections(Protocol):
    """The collections that a forgotten state of Postgres has left."""

    def forgotten(self, server: UUID) -> Sequence[Generation]:
        """Return this installation's collections on a server that the registry does not know."""
        ...


# ---- forget a tenant


class Erasures(Protocol):
    """The unfinished erasures, and what Postgres has of a tenant."""

    def request(self, tenant: TenantId) -> None:
        """Record that a tenant is to be forgotten."""
        ...

    def delete_memories(self, tenant: TenantId, ids: Sequence[MemoryId]) -> int:
        """Delete these memories of a tenant. Raises ContractError where the table refuses."""
        ...

    def fence(self, lease: Lease) -> None:
        """Take the tenant out of the registry under the lease. Raises Fenced."""
        ...

    def forget_orphaned_provenance(self) -> None:
        """Delete the provenance of memories that are gone."""
        ...

    def generations(self, tenant: TenantId) -> Sequence[Generation]:
        """Return the forgotten generations whose collections may exist."""
        ...

    def erased(self, tenant: TenantId, generation: UUID | None = None) -> None:
        """Delete the row of a forgotten generation, and of those that are dropped."""
        ...

    def pending(
        self, tenant: TenantId | None = None, *, idle_seconds: float = 0.0
    ) -> Sequence[PendingErasure]:
        """Return the unfinished erasures that were not tried for so long."""
        ...

    def postpone(self, tenant: TenantId, reason: str) -> None:
        """Record why an erasure is not finished."""
        ...

    def complete(self, tenant: TenantId) -> bool:
        """End an erasure of which no collection is left."""
        ...

    def traces(self, tenant: TenantId) -> Traces:
        """Count what is left of a tenant in each table."""
        ...


class Leases(Protocol):
    """The leases of tenants."""

    def acquire_lease(self, tenant: TenantId) -> Lease | None:
        """Take the tenant's lease; None while another worker holds it."""
        ...


class Registrations(Protocol):
    """The registered tenants, generations and servers."""

    def register(self, tenant: TenantId) -> str:
        """Register a tenant unless it is; return its partition key."""
        ...

    def servers(self) -> Sequence[Server]:
        """Return every registered server."""
        ...


class TenantMemories(Protocol):
    """The memories of a tenant."""

    def ids(self, tenant: TenantId) -> Iterator[list[MemoryId]]:
        """Iterate over the ids of a tenant's memories, a page at a time."""
        ...


class TenantCollections(DroppableCollections, Protocol):
    """The collections of a tenant on each server, whatever the registry knows of them."""

    def check_identity(self, server: UUID) -> None:
        """Check a server's marker. Raises ServerLost or ChromaUnavailable."""
        ...

    def generations_of(self, server: UUID, tenant: TenantId, *, seconds: float) -> Sequence[UUID]:
        """Return the generations on a server that are named after a tenant."""
        ...


class KnownGenerations(Protocol):
    """The generations that the registry knows."""

    def unknown(self, generations: Sequence[UUID]) -> Sequence[UUID]:
        """Return those of these generations that the registry does not know."""
        ...


class TenantHistory(Protocol):
    """What shows a tenant's syncs: Dagster, or nothing."""

    def forget(self, tenant: TenantId) -> Sequence[Place]:
        """Delete what can be deleted of a tenant; return what is left, looked up afresh."""
        ...
