"""Fill a building generation: chunks are read and embedded ahead, then written under the lease."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.content.document import Recipe
from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    Memory,
    MemoryId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.ports import Embedder, Lease, RenewLease
from memory_pipeline.rebuild.ports import ChunkMemories, Outbox, Rebuilds
from memory_pipeline.sync.embed import embed_and_back_up
from memory_pipeline.sync.plan import EmbeddedDraft, Plan, plan_batch
from memory_pipeline.sync.ports import DocumentWriter
from memory_pipeline.sync.write import write_documents
from memory_pipeline.verify.written_rows import WrittenRows


@dataclass(frozen=True, slots=True)
class Chunk:
    """Memories in id order, up to ``through``, with vectors.

    ``embedded``: those whose vector is new. ``recheck``: those left to a batch, because the model
    refused them or because they changed before their vector was backed up.
    """

    through: MemoryId
    ready: tuple[EmbeddedDraft, ...]
    embedded: frozenset[MemoryId]
    recheck: tuple[MemoryId, ...]


@dataclass(frozen=True, slots=True)
class WrittenChunk:
    """How many documents of a chunk were written, and how many of them with a new vector."""

    documents: int
    embedded: int


@dataclass(frozen=True, slots=True)
class CurrentChunk:
    """A chunk as Postgres has it under the lease; ``recheck``: what a batch has to embed."""

    ready: tuple[EmbeddedDraft, ...]
    recheck: tuple[MemoryId, ...]


@dataclass(frozen=True, slots=True)
class ChunkWriter:
    """Reads, embeds, writes and repairs. The caller owns the part and holds the lease."""

    outbox: Outbox
    memories: ChunkMemories
    rebuilds: Rebuilds
    index: DocumentWriter
    embedder: Embedder
    recipe: Recipe
    trust: bool
    slice_seconds: float
    clock: Clock = SYSTEM_CLOCK

    def chunks(
        self,
        part: RebuildPart,
        checkpoint: Checkpoint,
        *,
        size: Callable[[], int],
        renew: RenewLease,
    ) -> Iterator[Chunk]:
        """Read the memories after the checkpoint, in id order; embed those without a vector.

        A chunk has at most ``size()`` memories, called before each, and at most the bytes of a
        batch. No lease is held: a batch may change any of it meanwhile. New vectors are backed up
        slice by slice, so that the next attempt finds them.
        """
        for page in self.memories.ids(part.tenant, after=checkpoint.through):
            while page:
                most = size()
                left: Sequence[MemoryId] = page[:most]
                page = page[most:]  # noqa: PLW2901 - the rest of the page
                while left:
                    rows, left_out = self.memories.read(left)
                    taken = [i for i in left if not left_out or i < left_out[0]]
                    left = left_out
                    yield self._chunk(part, taken, rows, renew)

    def _chunk(
        self,
        part: RebuildPart,
        ids: Sequence[MemoryId],
        rows: dict[MemoryId, Memory],
        renew: RenewLease,
    ) -> Chunk:
        plan = self._plan(part.tenant, ids, rows, re_embed=part.re_embed)
        if plan.to_embed:
            self.embedder.load()
        embedded = embed_and_back_up(
            self.embedder,
            self.memories,
            plan.to_embed,
            renew=renew,
            slice_seconds=self.slice_seconds,
            clock=self.clock,
        )
        return Chunk(
            ids[-1],
            (*plan.covered, *embedded.ready),
            frozenset(d.memory.id for d in embedded.ready),
            (*embedded.missed, *(f.memory_id for f in (*plan.refused, *embedded.failures))),
        )

    def write(
        self,
        part: RebuildPart,
        lease: Lease,
        generation: Generation,
        chunk: Chunk,
        *,
        add_only: bool,
        written_rows: WrittenRows,
    ) -> WrittenChunk:
        """Write a chunk as its rows are now and record it as done, which returns the lease.

        Every row that was written is added to ``written_rows``.

        Raises:
            Fenced: the lease was lost; whether the chunk was written is unknown.
            ChromaUnavailable, Corrupt: as the index raises them.

        """
        current = self._current(part.tenant, chunk.ready)
        renew = self._renewal(part, lease)
        failures = write_documents(
            self.index, generation, current.ready, (), renew=renew, add_only=add_only
        )
        failed = {f.memory_id for f in failures}
        landed = [d for d in current.ready if d.memory.id not in failed]
        embedded = sum(d.memory.id in chunk.embedded for d in landed)
        self.rebuilds.record_chunk(
            part,
            lease,
            generation,
            through=chunk.through,
            provenance={d.memory.id: n for d in landed if (n := d.provenance_update) is not None},
            # A batch charges the refused memories, and writes those that have changed.
            recheck=[*chunk.recheck, *current.recheck, *failed],
            landed=[d.memory.id for d in landed],
            embedded=embedded,
        )
        for draft in sorted(landed, key=lambda d: d.memory.id):
            written_rows.add(draft.memory.id, draft.memory.version, draft.content.metadata)
        return WrittenChunk(len(landed), embedded)

    def repair(
        self, part: RebuildPart, lease: Lease, generation: Generation, ids: Sequence[MemoryId]
    ) -> None:
        """Repair documents of this generation alone, from their rows as they are now."""
        rows = self.memories.get(lease.tenant, ids, vectors=True)
        plan = self._plan(lease.tenant, ids, rows)
        renew = self._renewal(part, lease)
        failures = write_documents(self.index, generation, plan.covered, plan.deletes, renew=renew)
        refused = (*plan.refused, *failures)
        recheck = [*(d.memory.id for d in plan.to_embed), *(f.memory_id for f in refused)]
        self.outbox.enqueue(lease.tenant, recheck)

    def _renewal(self, part: RebuildPart, lease: Lease) -> RenewLease:
        """Return what each request under the lease calls: it renews the part and the lease.

        The ownership of the part outlasts the request, so the next owner need not wait for it.
        """

        def renew() -> float:
            self.rebuilds.renew_part(part)
            return lease.renew()

        return renew

    def _current(self, tenant: TenantId, drafts: Sequence[EmbeddedDraft]) -> CurrentChunk:
        """Return the drafts as their rows are now, under the lease.

        A row that was deleted is dropped. A row whose version has changed, by an application or by
        an embedding backup, is read again.
        """
        now = self.memories.versions([d.memory.id for d in drafts])
        unmoved = [d for d in drafts if now.get(d.memory.id) == (tenant, d.memory.version)]
        same = {d.memory.id for d in unmoved}
        moved = [i for i, (owner, _) in now.items() if owner == tenant and i not in same]
        rows = self.memories.get(tenant, moved, vectors=True) if moved else {}
        plan = self._plan(tenant, list(rows), rows)
        return CurrentChunk(
            (*unmoved, *plan.covered),
            (*(d.memory.id for d in plan.to_embed), *(f.memory_id for f in plan.refused)),
        )

    def _plan(
        self,
        tenant: TenantId,
        ids: Sequence[MemoryId],
        rows: dict[MemoryId, Memory],
        *,
        re_embed: bool = False,
    ) -> Plan:
        return plan_batch(
            tenant,
            ids,
            rows,
            recipe=self.recipe,
            model=self.embedder.model,
            trust=self.trust,
            re_embed=re_embed,
        )
