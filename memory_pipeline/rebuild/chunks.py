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
from memory_pipeline.ports import Embedder, Index, Lease, Memories, Outbox, Rebuilds, RenewLease
from memory_pipeline.sync.batch import embed_and_back_up, write_documents
from memory_pipeline.sync.plan import EmbeddedDraft, Plan, plan_batch
from memory_pipeline.verify.written_rows import WrittenRows


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some memories in id order, with vectors; ``again`` are those that a batch has to see to."""

    through: MemoryId
    ready: tuple[EmbeddedDraft, ...]
    embedded: frozenset[MemoryId]
    recheck: tuple[MemoryId, ...]


@dataclass(frozen=True, slots=True)
class ChunkWriter:
    """Reads, embeds, writes and mends; whoever calls it holds what has to be held."""

    outbox: Outbox
    memories: Memories
    rebuilds: Rebuilds
    index: Index
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
        """Read what was not read yet, in id order, and embed what no stored vector covers.

        At most ``size()`` memories a chunk, asked each time, and no more bytes than a batch may
        have. Outside the lease: a batch may change any of it meanwhile. New vectors are backed up
        slice by slice, so that the next attempt finds them.
        """
        for page in self.memories.ids(part.tenant, after=checkpoint.through):
            while page:
                most = size()
                left: Sequence[MemoryId] = page[:most]
                page = page[most:]  # noqa: PLW2901 - what is left of it
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
    ) -> tuple[int, int]:
        """Write what stands now of a chunk and record it as done, which gives the lease back.

        What was written is noted in ``known``.

        Returns:
            How many documents were written, and how many of them with a new vector.

        Raises:
            Fenced: the lease was lost; whether the chunk was written is not known.
            ChromaUnavailable, Corrupt: as the index raises them.

        """
        ready, recheck = self._current(part.tenant, chunk.ready)
        renew = self._renewal(part, lease)
        failures = write_documents(
            self.index, generation, ready, (), renew=renew, add_only=add_only
        )
        failed = {f.memory_id for f in failures}
        landed = [d for d in ready if d.memory.id not in failed]
        embedded = sum(d.memory.id in chunk.embedded for d in landed)
        self.rebuilds.record_chunk(
            part,
            lease,
            generation,
            through=chunk.through,
            provenance={d.memory.id: n for d in landed if (n := d.provenance_update) is not None},
            # A batch charges what is refused, and brings what has moved on.
            recheck=[*chunk.recheck, *recheck, *failed],
            landed=[d.memory.id for d in landed],
            embedded=embedded,
        )
        for draft in sorted(landed, key=lambda d: d.memory.id):
            written_rows.add(draft.memory.id, draft.memory.version, draft.content.metadata)
        return len(landed), embedded

    def repair(
        self, part: RebuildPart, lease: Lease, generation: Generation, ids: Sequence[MemoryId]
    ) -> None:
        """Bring documents right in this generation alone, from the rows as they stand now."""
        rows = self.memories.get(lease.tenant, ids, vectors=True)
        plan = self._plan(lease.tenant, ids, rows)
        renew = self._renewal(part, lease)
        failures = write_documents(self.index, generation, plan.covered, plan.deletes, renew=renew)
        refused = (*plan.refused, *failures)
        recheck = [*(d.memory.id for d in plan.to_embed), *(f.memory_id for f in refused)]
        self.outbox.enqueue(lease.tenant, recheck)

    def _renewal(self, part: RebuildPart, lease: Lease) -> RenewLease:
        """Return what each request holds: the lease, and the part, which outlasts the request.

        Whoever takes the part over does not wait: nothing of ours may still be on its way then.
        """

        def renew() -> float:
            self.rebuilds.renew_part(part)
            return lease.renew()

        return renew

    def _current(
        self, tenant: TenantId, drafts: Sequence[EmbeddedDraft]
    ) -> tuple[list[EmbeddedDraft], list[MemoryId]]:
        """Return what stands in Postgres now, under the lease; and what still has to be embedded.

        A row that went is dropped. One whose version moved, by an application or by anybody's
        embedding backup, is read again.
        """
        now = self.memories.versions([d.memory.id for d in drafts])
        unmoved = [d for d in drafts if now.get(d.memory.id) == (tenant, d.memory.version)]
        same = {d.memory.id for d in unmoved}
        moved = [i for i, (whose, _) in now.items() if whose == tenant and i not in same]
        rows = self.memories.get(tenant, moved, vectors=True) if moved else {}
        plan = self._plan(tenant, list(rows), rows)
        refused = [f.memory_id for f in plan.refused]
        return [*unmoved, *plan.covered], [*(d.memory.id for d in plan.to_embed), *refused]

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
