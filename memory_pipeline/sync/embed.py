"""Embed the drafts of a batch, slice by slice, and back each slice up.

A refused text is isolated and charged only if a control text passes: a model that refuses
everything is broken, and no memory is to blame.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import uuid4

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import MemoryId
from memory_pipeline.errors import EmbedderUnavailable, Poison
from memory_pipeline.ports import Embedder, RenewLease
from memory_pipeline.sync.isolate import failure_of, isolate
from memory_pipeline.sync.plan import Draft, EmbeddedDraft
from memory_pipeline.sync.ports import VectorBackup

CONTROL_TEXT = "a text that every model can embed"
FIRST_SLICE = 1  # however long its text: its time tells how fast the model and the machine are
LARGEST_SLICE = 64


@dataclass(frozen=True, slots=True)
class Embedded:
    """The drafts of a batch after embedding.

    ``ready``: embedded, and the backup of the vector is not waited for. ``missed``: the row has
    changed since it was read, or is locked; its change stays pending. ``failures``: refused by the
    model.
    """

    ready: tuple[EmbeddedDraft, ...]
    missed: tuple[MemoryId, ...]
    failures: tuple[Failure, ...]


def embed_and_back_up(
    embedder: Embedder,
    memories: VectorBackup,
    drafts: Sequence[Draft],
    *,
    renew: RenewLease,
    slice_seconds: float,
    clock: Clock = SYSTEM_CLOCK,
    overdue: Collection[MemoryId] = (),
) -> Embedded:
    """Embed drafts; back up each slice as soon as it is computed. Raises as ``embed_drafts``.

    A missed backup is waited for, but of the ``overdue`` memories: a row may be locked for hours,
    or change faster than its vector is stored, and a document is worth more than a backup.
    """
    embedded: list[EmbeddedDraft] = []
    done: set[MemoryId] = set(overdue)

    def keep(slice_: Sequence[EmbeddedDraft]) -> None:
        embedded.extend(slice_)
        done.update(
            memories.back_up({d.memory.id: (d.memory, d.vector, d.provenance) for d in slice_})
        )

    failures = embed_drafts(
        embedder, drafts, renew=renew, slice_seconds=slice_seconds, clock=clock, keep=keep
    )
    return Embedded(
        tuple(d for d in embedded if d.memory.id in done),
        tuple(d.memory.id for d in embedded if d.memory.id not in done),
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
        failures += [failure_of(d, "embedding", why) for d, why in refused]
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
