"""The steps of a batch that talk to the model and to Chroma. The heart says when; these say how.

What is refused is singled out here, and charged only when a control beside it passes: a model or a
collection that refuses everything is broken, and no memory is to blame.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.content.document import Recipe, compose
from memory_pipeline.domain.outcomes import Failure, FailureKind
from memory_pipeline.domain.types import Generation, MemoryId, document_id, memory_id_of
from memory_pipeline.errors import Corrupt, EmbedderUnavailable, Poison
from memory_pipeline.ports import Embedder, Index, Lease, Memories, RenewLease
from memory_pipeline.redact import without_quotes
from memory_pipeline.sync.plan import Draft, EmbeddedDraft, isolate

CONTROL_TEXT = "a text that every model can embed"
FIRST_SLICE = 1  # whatever the text and the machine: the first tells how fast both are
LARGEST_SLICE = 64
MEMORIES_A_RENEWAL = 1000


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of drafts: embedded and backed up, moved meanwhile, or refused by the model."""

    ready: tuple[EmbeddedDraft, ...]
    missed: tuple[MemoryId, ...]
    failures: tuple[Failure, ...]


def embed_and_back_up(
    embedder: Embedder,
    memories: Memories,
    drafts: Sequence[Draft],
    *,
    renew: RenewLease,
    slice_seconds: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Embedded:
    """Embed drafts and back each slice up at once. Raises as ``embed_drafts`` does."""
    embedded: list[EmbeddedDraft] = []
    stored: set[MemoryId] = set()

    def keep(slice_: Sequence[EmbeddedDraft]) -> None:
        embedded.extend(slice_)
        stored.update(
            memories.back_up({d.memory.id: (d.memory, d.vector, d.provenance) for d in slice_})
        )

    failures = embed_drafts(
        embedder, drafts, renew=renew, slice_seconds=slice_seconds, clock=clock, keep=keep
    )
    return Embedded(
        tuple(d for d in embedded if d.memory.id in stored),
        tuple(d.memory.id for d in embedded if d.memory.id not in stored),
        tuple(failures),
    )


def embed_drafts(
    embedder: Embedder,
    drafts: Sequence[Draft],
    *,
    renew: RenewLease,
    slice_seconds: float,
    clock: Clock = SYSTEM_CLOCK,
    keep: Callable[[Sequence[EmbeddedDraft]], None],
) -> list[Failure]:
    """Embed in slices that are short against the lease; single out what the model refuses.

    Each slice is handed to ``keep`` when it is done, so that a lease lost on the way costs no
    vector that was computed.

    Raises:
        EmbedderUnavailable: the model fails on a control text as well.
        Fenced: the lease was lost between two slices.

    """
    failures: list[Failure] = []
    at, size = 0, FIRST_SLICE

    def attempt(part: Sequence[Draft]) -> None:
        renew()
        vectors = embedder.embed([draft.content.text for draft in part])
        keep([d.embedded(v, embedder.model) for d, v in zip(part, vectors, strict=True)])

    while at < len(drafts):
        began = clock.monotonic()
        part = drafts[at : at + size]
        refused = isolate(part, attempt)
        if refused:
            _embed_control(embedder)
        failures += [_failure(d, "embedding", why) for d, why in refused]
        at += len(part)
        # Texts come shortest first: the next are as long as the one that would end the slice.
        characters = sum(len(draft.content.text) + 1 for draft in part)
        a_character = max((clock.monotonic() - began) / characters, 1e-9)
        size = 1
        while size < min(LARGEST_SLICE, len(drafts) - at) and (
            size * 2 * (len(drafts[min(at + size * 2, len(drafts)) - 1].content.text) + 1)
            <= slice_seconds / a_character
        ):
            size *= 2
    return failures


def _embed_control(embedder: Embedder) -> None:
    try:
        # Another one each time: what a cache remembers says nothing of the model as it is now.
        embedder.embed([f"{CONTROL_TEXT}: {uuid4()}"])
    except Poison as broken:
        raise EmbedderUnavailable(f"the model fails on a control text too: {broken}") from broken


def write_documents(
    index: Index,
    generation: Generation,
    ready: Sequence[EmbeddedDraft],
    deletes: Sequence[MemoryId],
    *,
    renew: RenewLease,
    add_only: bool = False,
) -> list[Failure]:
    """Write to one generation; single out what Chroma refuses.

    Raises:
        Corrupt: a control write is refused as well, or a delete, which has nothing to refuse.
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
    return [_failure(d, "index", why) for d, why in refused]


def _failure(draft: Draft | EmbeddedDraft, kind: FailureKind, why: Poison) -> Failure:
    reason = without_quotes(f"{kind}: {why}")
    return Failure(draft.memory.id, reason, kind, draft.content.content_hash)


def find_differing(
    index: Index, memories: Memories, generation: Generation, recipe: Recipe, *, lease: Lease
) -> list[MemoryId]:
    """Compare a whole tenant with a generation by content hash; return what differs.

    Raises:
        Fenced: the lease was lost on the way.

    """
    held = index.hashes(generation, renew=lease.renew)
    differing: list[MemoryId] = []
    for number, memory in enumerate(memories.of_tenant(lease.tenant)):
        if number % MEMORIES_A_RENEWAL == 0:
            lease.renew()  # a large tenant takes longer than a lease
        if held.pop(document_id(memory.id), None) != compose(memory, recipe).content_hash:
            differing.append(memory.id)
    return differing + [i for name in sorted(held) if (i := memory_id_of(name)) is not None]


def find_strays(
    index: Index, memories: Memories, generation: Generation, *, lease: Lease
) -> list[MemoryId]:
    """Tell whose documents a generation has although the tenant has no such memory.

    Raises:
        Fenced: the lease was lost on the way.

    """
    held = index.hashes(generation, renew=lease.renew)
    for page in memories.ids(lease.tenant):
        lease.renew()  # a large tenant takes longer than a lease
        for memory_id in page:
            held.pop(document_id(memory_id), None)
    return [i for name in sorted(held) if (i := memory_id_of(name)) is not None]
