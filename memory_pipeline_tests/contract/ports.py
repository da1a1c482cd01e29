"""What both sides of a contract test satisfy: what several packages of the core need, in one."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from memory_pipeline.domain.types import Memory, MemoryId, TenantId
from memory_pipeline.rebuild import ports as rebuild
from memory_pipeline.sync import ports as sync
from memory_pipeline.verify import ports as verify


class Outbox(sync.Outbox, rebuild.Outbox, Protocol):
    """Changes that wait, and the leases under which they are claimed and acked."""


class Memories(verify.Memories, rebuild.ChunkMemories, sync.Memories, Protocol):
    """The memories of Postgres; ``ids`` and ``read`` with the arguments of each package."""

    def ids(self, tenant: TenantId, *, after: MemoryId | None = None) -> Iterator[list[MemoryId]]:
        """Iterate over the ids of a tenant's memories after the given one, a page at a time."""
        ...

    def read(
        self, ids: Sequence[MemoryId], *, vectors: bool = True
    ) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        ...


class Registry(sync.Registry, rebuild.Registry, Protocol):
    """The tenants' generations."""

    def register(self, tenant: TenantId) -> str:
        """Register a tenant unless it is; return its partition key."""
        ...
