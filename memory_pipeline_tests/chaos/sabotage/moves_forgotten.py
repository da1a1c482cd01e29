"""Deletes no document: after a move or a deletion, it stays in the old collection."""

from collections.abc import Sequence

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.cli import main
from memory_pipeline.domain.types import Document, Generation, MemoryId
from memory_pipeline.ports import RenewLease

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
    """Write documents, and delete none."""
    del deletes
    thorough(self, generation, documents, (), renew=renew, add_only=add_only)


ChromaIndex.write = write  # type: ignore[method-assign]
main()
