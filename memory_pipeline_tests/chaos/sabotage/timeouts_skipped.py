"""Takes an outage of Chroma for the end of it: what was not written is skipped."""

from collections.abc import Sequence

from memory_pipeline.chaos.program import main
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.generations import Generations
from memory_pipeline.model import Failure, Generation, MemoryId
from memory_pipeline.plan import EmbeddedDraft
from memory_pipeline.ports import Lease

persistent = Generations.write


def write(
    self: Generations,
    lease: Lease,
    targets: Sequence[Generation],
    ready: Sequence[EmbeddedDraft],
    deletes: Sequence[MemoryId],
) -> list[Failure]:
    """Write, and go on as if it had worked."""
    try:
        return persistent(self, lease, targets, ready, deletes)
    except ChromaUnavailable:
        return []


Generations.write = write  # type: ignore[method-assign]
main()
