"""Decide what a batch does with the rows it has read. No I/O: ``sync/batch.py`` acts on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_pipeline.content.document import Content, Recipe, compose, text_hash, vector_hash
from memory_pipeline.content.vector_reuse import reusable_vector
from memory_pipeline.domain.changes import Claim
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


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A memory with its content, not yet with a vector."""

    memory: Memory
    content: Content

    def embedded(self, vector: Vector, model: str) -> "EmbeddedDraft":
        """Return the draft with the vector that this model computed for its text."""
        provenance = Provenance(self.content.text_hash, model, vector_hash(vector))
        return EmbeddedDraft(self.memory, self.content, vector, provenance)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedDraft:
    """A memory with its content and the vector of its text."""

    memory: Memory
    content: Content
    vector: Vector
    provenance: Provenance

    @property
    def document(self) -> Document:
        """Return the document that Chroma stores."""
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
        """Return the provenance to record; None: it is recorded, or the row has another vector."""
        kept, before = self.memory.embedding, self.memory.provenance
        if self.provenance == before or not (kept is None or kept is self.vector):
            return None
        return ProvenanceUpdate(self.provenance, before)


@dataclass(frozen=True, slots=True)
class Plan:
    """The memories of a batch by what happens to them.

    ``deletes``: their documents are deleted. ``covered``: their stored vectors are reused.
    ``to_embed``: the model computes their vectors. ``refused``: they cannot be read.
    """

    deletes: tuple[MemoryId, ...] = ()
    covered: tuple[EmbeddedDraft, ...] = ()
    to_embed: tuple[Draft, ...] = ()
    refused: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """A claim with the plan of its rows; ``cut``: rows that did not fit are unclaimed again."""

    claim: Claim
    plan: Plan
    cut: bool


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
    """Decide for each memory of a claim, from its row as it is now.

    A memory that was deleted, or that another tenant has now, is deleted from this tenant's
    collection. A memory that cannot be read is refused; the others are not.

    Args:
        tenant: whose collection.
        ids: the memories of the claim.
        rows: the rows that exist, of any tenant.
        recipe: how a memory becomes a document.
        model: the fingerprint of the model of now.
        trust: whether a vector that the application stored may be used.
        re_embed: compute every vector, whatever vector the row has.

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
        stored = reusable_vector(memory, content, model=model, trust=trust)
        if re_embed or stored is None:
            to_embed.append(Draft(memory, content))
        else:
            covered.append(EmbeddedDraft(memory, content, *stored))
    # Texts of one length embed together fastest.
    to_embed.sort(key=lambda d: len(d.content.text))
    return Plan(tuple(deletes), tuple(covered), tuple(to_embed), tuple(refused))


def _unreadable(memory: Memory, why: Poison) -> Failure:
    # The content hash covers the metadata too, which is not known: the text hash must do.
    reason = without_quotes(f"content: {why}")
    return Failure(memory.id, reason, "content", text_hash(memory.raw))
