"""Compare a whole tenant with one of its collections: what a reset has to recheck."""

from collections.abc import Iterable

from memory_pipeline.content.document import Recipe, compose
from memory_pipeline.domain.types import Generation, MemoryId, document_id, memory_id_of
from memory_pipeline.ports import Lease
from memory_pipeline.sync.ports import ContentHashes, TenantRows

MEMORIES_A_RENEWAL = 1000  # composing so many takes well under a second


def find_differing(
    index: ContentHashes,
    memories: TenantRows,
    generation: Generation,
    recipe: Recipe,
    *,
    lease: Lease,
) -> list[MemoryId]:
    """Compare a whole tenant with a generation by content hash; return the ids that differ.

    Raises:
        Fenced: the lease was lost during the comparison.

    """
    held = index.hashes(generation, renew=lease.renew)
    differing: list[MemoryId] = []
    for number, memory in enumerate(memories.of_tenant(lease.tenant)):
        if number % MEMORIES_A_RENEWAL == 0:
            lease.renew()  # a large tenant takes longer than a lease
        if held.pop(document_id(memory.id), None) != compose(memory, recipe).content_hash:
            differing.append(memory.id)
    return differing + _memory_ids(held)


def find_strays(
    index: ContentHashes, memories: TenantRows, generation: Generation, *, lease: Lease
) -> list[MemoryId]:
    """Return the ids of the documents for which the tenant has no memory.

    Raises:
        Fenced: the lease was lost during the comparison.

    """
    held = index.hashes(generation, renew=lease.renew)
    for page in memories.ids(lease.tenant):
        lease.renew()  # a large tenant takes longer than a lease
        for memory_id in page:
            held.pop(document_id(memory_id), None)
    return _memory_ids(held)


def _memory_ids(documents: Iterable[str]) -> list[MemoryId]:
    return [i for name in sorted(documents) if (i := memory_id_of(name)) is not None]
