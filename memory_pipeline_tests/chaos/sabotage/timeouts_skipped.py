"""Treats an outage of Chroma as success: documents that were not written are skipped."""

from collections.abc import Sequence

from memory_pipeline.cli import main
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Generation, MemoryId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.ports import Lease
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.plan import EmbeddedDraft

persistent = Generations.write


def write(
    self: Generations,
    lease: Lease,
    targets: Sequence[Generation],
    ready: Sequence[EmbeddedDraft],
    deletes: Sequence[MemoryId],
) -> list[Failure]:
    """Write, and treat an outage as success."""
    try:
        return persistent(self, lease, targets, ready, deletes)
    except ChromaUnavailable:
        return []


Generations.write = write  # type: ignore[method-assign]
main()
