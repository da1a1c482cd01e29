"""What search needs: the pointer to a tenant's collection, its candidates, and the memories."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from memory_pipeline.domain.types import Generation, Match, Memory, MemoryId, TenantId, Vector


class LiveGenerations(Protocol):
    """The registry in Postgres, as far as search reads it."""

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant go to now."""
        ...


class CandidateIndex(Protocol):
    """Where the candidates come from: Chroma."""

    def query(
        self,
        generation: Generation,
        vector: Vector,
        *,
        limit: int,
        where: Mapping[str, Any] | None,
        seconds: float,
    ) -> list[Match]:
        """Return the nearest documents, nearest first. Raises Corrupt or ChromaUnavailable."""
        ...


class CurrentMemories(Protocol):
    """The rows of ``memory_logs``, as far as search reads them."""

    def get(self, tenant: TenantId, ids: Sequence[MemoryId]) -> dict[MemoryId, Memory]:
        """Return those of these memories that exist and are the tenant's."""
        ...


class BuriedMemories(Protocol):
    """The dead letters, as far as search reads them."""

    def buried(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> frozenset[MemoryId]:
        """Return those of a tenant's memories that are dead letters, waived or not."""
        ...
