"""What a batch has to do, decided from what was read; no I/O. The heart acts on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from memory_pipeline.content.document import Content, Recipe, compose, text_hash, vector_hash
from memory_pipeline.content.vector_reuse import reusable_provenance
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Document,
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    TenantId,
    Vector,
)
from memory_pipeline.errors import Poison
from memory_pipeline.redact import without_quotes

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A memory with its content, still without a vector."""

    memory: Memory
    content: Content

    def embedded(self, vector: Vector, model: str) -> "EmbeddedDraft":
        """Join it with the vector that this model made of its text."""
        provenance = Provenance(self.content.text_hash, model, vector_hash(vector))
        return EmbeddedDraft(self.memory, self.content, vector, provenance)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedDraft:
    """A memory with its content and the vector that stands for it."""

    memory: Memory
    content: Content
    vector: Vector
    provenance: Provenance

    @property
    def document(self) -> Document:
        """What Chroma shall store."""
        return Document(
            self.memory.id,
            self.vector,
            self.content.document,
            self.content.metadata,
            # A memory with provenance was written before, perhaps with another vector.
            rewritten=self.memory.provenance is not None,
        )

    @property
    def provenance_update(self) -> ProvenanceUpdate | None:
        """What is to be noted of its vector; None where the row had another, or it is noted."""
        kept, before = self.memory.embedding, self.memory.provenance
        if self.provenance == before or not (kept is None or kept is self.vector):
            return None
        return ProvenanceUpdate(self.provenance, before)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be deleted, has its vector already, has to be embedded, or cannot be read."""

    deletes: tuple[MemoryId, ...] = ()
    covered: tuple[EmbeddedDraft, ...] = ()
    to_embed: tuple[Draft, ...] = ()
    refused: tuple[Failure, ...] = ()


def plan_batch(
    tenant: TenantId,
    ids: Sequence[MemoryId],
    rows: dict[MemoryId, Memory],
    *,
    recipe: Recipe,
    model: str,
    trust: bool,
    re_embed: bool = False,
) -> Plan:
    """Decide for each memory of a claim, from its row as it stands now.

    A memory that is gone, or that is another tenant's by now, is deleted from this tenant. One that
    cannot be read is refused, and it alone. With ``re_embed`` no stored vector is good enough.
    """
    deletes: list[MemoryId] = []
    covered: list[EmbeddedDraft] = []
    to_embed: list[Draft] = []
    refused: list[Failure] = []
    for memory_id in ids:
        memory = rows.get(memory_id)
        if memory is None or memory.tenant != tenant:
            deletes.append(memory_id)
            continue
        try:
            content = compose(memory, recipe)
        except Poison as why:
            refused.append(_unreadable(memory, why))
            continue
        provenance = reusable_provenance(memory, content, model=model, trust=trust)
        if re_embed or provenance is None or memory.embedding is None:
            to_embed.append(Draft(memory, content))
        else:
            covered.append(EmbeddedDraft(memory, content, memory.embedding, provenance))
    # Texts of one length embed together fastest.
    to_embed.sort(key=lambda d: len(d.content.text))
    return Plan(tuple(deletes), tuple(covered), tuple(to_embed), tuple(refused))


def _unreadable(memory: Memory, why: Poison) -> Failure:
    # Its metadata, which the content hash covers too, is not known.
    reason = without_quotes(f"content: {why}")
    return Failure(memory.id, reason, "content", text_hash(memory.raw))


def isolate(batch: Sequence[T], attempt: Callable[[Sequence[T]], None]) -> list[tuple[T, Poison]]:
    """Attempt a batch; when it is refused, halve it until the refused ones stand alone.

    Returns:
        Each one that is refused by itself, with why; everything else was attempted with success.

    """
    if not batch:
        return []
    try:
        attempt(batch)
    except Poison as refusal:
        if len(batch) == 1:
            return [(batch[0], refusal)]
        middle = len(batch) // 2
        return [*isolate(batch[:middle], attempt), *isolate(batch[middle:], attempt)]
    return []
