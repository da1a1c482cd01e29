"""The protocols that transfer needs of Postgres. The adapter satisfies them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.domain.types import NewMemory, TenantId

Refused = Callable[[NewMemory, str], None]


class NewMemories(Protocol):
    """Where new memories are stored."""

    def store(
        self, batches: Iterable[Sequence[NewMemory]], *, refused: Refused, once: bool
    ) -> Stored:
        """Store the memories in one transaction, but for the refused ones.

        ``refused`` is called with each memory that Postgres refuses, and the reason; where it
        raises, nothing is stored. ``once``: a memory with a known external id is updated.
        """
        ...


class Exports(Protocol):
    """Where memories are read from."""

    def export(self, tenants: Sequence[TenantId] | None) -> Iterator[str]:
        """Iterate over the memories of one snapshot, as lines that an import takes."""
        ...

    def without_tenant(self) -> int:
        """Count the rows that belong to no tenant."""
        ...
