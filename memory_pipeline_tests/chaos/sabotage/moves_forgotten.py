"""Forgets the old tenant when a memory moves or is deleted: its document stays."""

from collections.abc import Sequence

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.domain.types import Document, Generation, MemoryId
from memory_pipeline.ports import RenewLease
from memory_pipeline.testing.chaos.failing_embedder import main

thorough = ChromaIndex.write


def write(
    self: ChromaIndex,
    generation: Generation,
    documents: Sequence[Document],
    deletes: Sequence[MemoryId],
    *,
    renew: RenewLease,
    add_only: bool = False,
) -> None:
    """Write documents alone."""
    del deletes
    thorough(self, generation, documents, (), renew=renew, add_only=add_only)


ChromaIndex.write = write  # type: ignore[method-assign]
main()
