"""Write the documents of a batch to one generation; isolate those that Chroma refuses.

A refused document is charged only if a control write passes: a collection that refuses everything
is broken, and no memory is to blame.
"""

from collections.abc import Sequence

from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Generation, MemoryId
from memory_pipeline.errors import Corrupt, Poison
from memory_pipeline.ports import RenewLease
from memory_pipeline.sync.isolate import failure_of, isolate
from memory_pipeline.sync.plan import EmbeddedDraft
from memory_pipeline.sync.ports import DocumentWriter


def write_documents(
    index: DocumentWriter,
    generation: Generation,
    ready: Sequence[EmbeddedDraft],
    deletes: Sequence[MemoryId],
    *,
    renew: RenewLease,
    add_only: bool = False,
) -> list[Failure]:
    """Write to one generation; isolate the documents that Chroma refuses.

    Args:
        index: Chroma.
        generation: whose collection.
        ready: the documents to write.
        deletes: the memories whose documents are deleted first.
        renew: called before each request.
        add_only: the documents are new to the collection; a stored one stays as it is.

    Returns:
        The documents that Chroma refuses.

    Raises:
        Corrupt: a control write is refused as well, or a delete, which carries no content.
        ChromaUnavailable, Fenced: as the index raises them.

    """
    try:
        index.write(generation, (), deletes, renew=renew)
    except Poison as refusal:
        raise Corrupt(f"it refuses deletes: {refusal}", generation=generation.id) from refusal

    def attempt(part: Sequence[EmbeddedDraft]) -> None:
        index.write(generation, [d.document for d in part], (), renew=renew, add_only=add_only)

    refused = isolate(ready, attempt)
    if refused:
        try:
            index.control_write(generation, renew=renew)
        except Poison as broken:
            raise Corrupt(
                f"a control write fails too: {broken}", generation=generation.id
            ) from broken
    return [failure_of(d, "index", why) for d, why in refused]
