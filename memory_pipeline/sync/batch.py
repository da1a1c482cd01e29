"""The steps of a batch that call the model and Chroma. ``sync/tenant.py`` decides their order.

A refused memory is isolated here, and charged only if a control passes as well: a model or a
collection that refuses everything is broken, and no memory is to blame.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Failure, FailureKind
from memory_pipeline.domain.types import Generation, MemoryId, ProvenanceUpdate
from memory_pipeline.errors import Corrupt, EmbedderUnavailable, Poison
from memory_pipeline.ports import Embedder, RenewLease
from memory_pipeline.redact import without_quotes
from memory_pipeline.sync.plan import Draft, EmbeddedDraft, isolate
from memory_pipeline.sync.ports import DocumentWriter, VectorBackup

CONTROL_TEXT = "a text that every model can embed"
FIRST_SLICE = 1  # however long its text: its time tells how fast the model and the machine are
LARGEST_SLICE = 64


@dataclass(frozen=True, slots=True)
class Embedded:
    """The drafts of a batch after embedding.

    ``ready``: embedded, and the vector is backed up. ``missed``: the row has changed since it was
    read; its change stays pending. ``failures``: refused by the model.
    """

    ready: tuple[EmbeddedDraft, ...]
    missed: tuple[MemoryId, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """The memories of a batch after the write, and the times that it took.

    ``ready``: written, unless it is among ``failures``. ``missed``: as in ``Embedded``.
    ``searchable_seconds``: from the claim to the answer to the last write.
    """

    ready: tuple[EmbeddedDraft, ...]
    deletes: tuple[MemoryId, ...]
    failures: tuple[Failure, ...]
    missed: tuple[MemoryId, ...]
    embed_seconds: float
    write_seconds: float
    searchable_seconds: float

    @property
    def failed(self) -> set[MemoryId]:
        """The memories that were refused."""
        return {f.memory_id for f in self.failures}

    @property
    def landed(self) -> dict[MemoryId, ProvenanceUpdate | None]:
        """The memories that were deleted or written, with the provenance to record."""
        failed = self.failed
        written = {d.memory.id: d.provenance_update for d in self.ready}
        landed: dict[MemoryId, ProvenanceUpdate | None] = dict.fromkeys(self.deletes)
        return landed | {i: update for i, update in written.items() if i not in failed}


def embed_and_back_up(
    embedder: Embedder,
    memories: VectorBackup,
    drafts: Sequence[Draft],
    *,
    renew: RenewLease,
    slice_seconds: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Embedded:
    """Embed drafts; back up each slice as soon as it is computed. Raises as ``embed_drafts``."""
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
    """Embed in slices that are short against the lease; isolate the texts the model refuses.

    Each slice is passed to ``keep`` when it is done, so that a lost lease costs no computed vector.

    Args:
        embedder: the model.
        drafts: the shortest text first.
        renew: called before each slice.
        slice_seconds: how long a slice may take.
        clock: measures the slices.
        keep: takes each embedded slice.

    Returns:
        The drafts that the model refuses.

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
        characters = sum(map(_characters, part))
        a_character = max((clock.monotonic() - began) / characters, 1e-9)
        following = [_characters(draft) for draft in drafts[at : at + LARGEST_SLICE]]
        size = slice_size(following, characters=slice_seconds / a_character)
    return failures


def slice_size(texts: Sequence[int], *, characters: float) -> int:
    """Return how many of the next texts to embed at once: a power of two, at least one.

    Args:
        texts: the lengths of the next texts, shortest first. Every text of a slice counts as long
            as the last: the model pads the others to it.
        characters: how many characters fit into a slice.

    """
    size = 1
    while size < min(LARGEST_SLICE, len(texts)):
        longest = texts[min(size * 2, len(texts)) - 1]
        if size * 2 * longest > characters:
            break
        size *= 2
    return size


def _characters(draft: Draft) -> int:
    return len(draft.content.text) + 1  # the empty text takes time too


def _embed_control(embedder: Embedder) -> None:
    try:
        # A new text each time: a cached vector says nothing about the model as it is now.
        embedder.embed([f"{CONTROL_TEXT}: {uuid4()}"])
    except Poison as broken:
        raise EmbedderUnavailable(f"the model fails on a control text too: {broken}") from broken


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
    return [_failure(d, "index", why) for d, why in refused]


def _failure(draft: Draft | EmbeddedDraft, kind: FailureKind, why: Poison) -> Failure:
    reason = without_quotes(f"{kind}: {why}")
    return Failure(draft.memory.id, reason, kind, draft.content.content_hash)
