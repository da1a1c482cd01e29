"""The protocols that maintenance needs of Postgres and Chroma. Adapters and fakes satisfy them."""

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.dead_letters import DeadLetter
from memory_pipeline.domain.types import Generation, Server, TenantId
from memory_pipeline.ports import Lease

# ---- cleanup


class EndedGenerations(Protocol):
    """The generations that have ended, and whether their collections exist."""

    def droppable(self, *, grace_seconds: float, limit: int) -> Sequence[Generation]:
        """Return generations that ended ``grace_seconds`` ago and whose collections exist."""
        ...

    def dropped(self, generation: UUID) -> None:
        """Record that a generation's collection is dropped."""
        ...


class DroppableCollections(Protocol):
    """The collections of ended generations."""

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Delete some documents of a large collection; False once it is small."""
        ...

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Drop a generation's collection without reading it."""
        ...


class Leases(Protocol):
    """The leases of tenants."""

    def acquire_lease(self, tenant: TenantId) -> Lease | None:
        """Take the tenant's lease; None while another worker holds it."""
        ...


class EmptyTenants(Protocol):
    """The tenants that keep a collection and have no memories."""

    def empty_tenants(self, *, seconds: float, limit: int) -> Sequence[TenantId]:
        """Return tenants that have had no memory for so long."""
        ...

    def retire_empty(self, lease: Lease) -> bool:
        """Retire the collection of a tenant that is still empty; whether it was."""
        ...

    def return_lease(self, lease: Lease) -> None:
        """Release a lease under which no sync took place."""
        ...


# ---- the restore watch


class StampedServers(Protocol):
    """The Chroma servers, whose markers hold what they last heard of Postgres."""

    def stamp(self, *, seconds: float) -> None:
        """Compare Postgres with the markers; begin an epoch where the newest is that old."""
        ...

    def usable(self) -> Collection[UUID]:
        """Return the servers whose identity was proven by the newest probe."""
        ...


class Epochs(Protocol):
    """The epochs of Postgres, as far as the sweep needs them."""

    def sweep_is_due(self, *, seconds: float) -> bool:
        """Whether a rollback is that old and no sweep was completed since."""
        ...

    def unknown(self, generations: Sequence[UUID]) -> Sequence[UUID]:
        """Return those of these generations that the registry does not know."""
        ...

    def record_sweep(self) -> None:
        """Record that a sweep was completed."""
        ...


class RegisteredServers(Protocol):
    """The servers of this installation."""

    def servers(self) -> Sequence[Server]:
        """Return every registered server."""
        ...

    def installation(self) -> UUID:
        """Return the id of this installation."""
        ...


class ListedCollections(DroppableCollections, Protocol):
    """The collections on a server."""

    def generations(self, server: UUID, installation: UUID, *, seconds: float) -> Sequence[UUID]:
        """Return the generations of an installation that have a collection on this server."""
        ...


# ---- alerts


class DeadLetterAlerts(Protocol):
    """The dead letters, and whether an alert was delivered for them."""

    def unalerted(self, *, limit: int) -> Sequence[DeadLetter]:
        """Return the dead letters without a delivered alert, oldest first."""
        ...

    def alerted(self, dead_letters: Collection[DeadLetter], /) -> None:
        """Record that an alert was delivered for these."""
        ...
