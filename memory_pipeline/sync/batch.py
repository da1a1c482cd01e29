"""One batch of a tenant, under its lease: read, embed, write, ack (4 to 7 of ``tenant.py``).

The order is the design: what is acked has been written, and what was written was read after the
claim. Nothing is retried here; an error leaves the changes claimed.
"""

from dataclasses import dataclass
from typing import Literal

from memory_pipeline.clock import Clock, Stopwatch
from memory_pipeline.content.document import Recipe, unread_dates
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure, Outcome
from memory_pipeline.domain.types import MemoryId, ProvenanceUpdate
from memory_pipeline.ports import Embedder, Lease
from memory_pipeline.sync.embed import embed_and_back_up
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.plan import EmbeddedDraft, Planned, plan_batch
from memory_pipeline.sync.ports import Memories, Outbox

# A document waits no longer for the backup of its vector while its row is locked or changes.
BACKUP_PATIENCE_SECONDS = 2.0


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


class ColdModel(Exception):
    """The model has to be loaded first, which takes longer than a lease."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Syncs one claim of one tenant. The caller holds the lease."""

    outbox: Outbox
    memories: Memories
    embedder: Embedder
    recipe: Recipe
    trust: bool
    slice_seconds: float
    generations: Generations
    freshness: Freshness
    clock: Clock
    dead_letter_search: Literal["previous", "hidden"]

    def run(self, lease: Lease, claim: Claim) -> Outcome:
        """Sync the changes of one claim; return what was done.

        Raises:
            ColdModel: the model is not loaded, and a text has to be embedded; nothing was sent.
            ConfigurationChanged: a generation was built with other settings.
            Transient, Corrupt, Fenced, Poison: as the steps raise them; the changes stay claimed.

        """
        stopwatch = Stopwatch(self.clock)
        for generation in claim.targets:
            self.generations.check(generation)
        planned = self._read(lease, claim)  # 4
        if planned.plan.to_embed and not self.embedder.loaded:
            raise ColdModel
        written = self._write(lease, planned, stopwatch)  # 5 and 6
        return self._ack(lease, planned, written)  # 7

    def _read(self, lease: Lease, claim: Claim) -> Planned:
        rows, left_out = self.memories.read(claim.memory_ids)
        if left_out:
            self.outbox.unclaim(lease, claim.only(left_out))
            claim = claim.without(left_out)
        plan = plan_batch(
            lease.tenant,
            claim.memory_ids,
            rows,
            recipe=self.recipe,
            model=self.embedder.model,
            trust=self.trust,
        )
        return Planned(claim, plan, cut=bool(left_out))

    def _write(self, lease: Lease, planned: Planned, stopwatch: Stopwatch) -> Written:
        targets, plan = planned.claim.targets, planned.plan
        stopwatch.lap()
        embedded = embed_and_back_up(  # 5
            self.embedder,
            self.memories,
            plan.to_embed,
            renew=lease.renew,
            slice_seconds=self.slice_seconds,
            clock=self.clock,
            overdue=planned.claim.waiting(BACKUP_PATIENCE_SECONDS),
        )
        embed_seconds = stopwatch.lap()
        ready = (*plan.covered, *embedded.ready)
        refused = self.generations.write(lease, targets, ready, plan.deletes)  # 6
        write_seconds, searchable_seconds = stopwatch.lap(), stopwatch.total()
        written = Written(
            ready,
            plan.deletes,
            (*plan.refused, *embedded.failures, *refused),
            embedded.missed,
            embed_seconds,
            write_seconds,
            searchable_seconds,
        )
        if written.failures and self.dead_letter_search == "hidden":
            # Before the ack: until their documents are deleted, the changes wait.
            self.generations.write(lease, targets, (), sorted(written.failed))
        return written

    def _ack(self, lease: Lease, planned: Planned, written: Written) -> Outcome:
        claim, failed, landed = planned.claim, written.failed, written.landed
        # Compared after the write: the memories that this batch has repaired need no recheck.
        differing = [
            i
            for generation in (claim.targets if claim.resets else ())
            for i in self.generations.differing(lease, generation)
        ]
        buried = self.outbox.ack(
            lease,
            claim,
            landed=landed,
            failures=written.failures,
            missed=written.missed,
            recheck=[i for i in differing if i not in failed.union(written.missed)],
        )
        ages = [c.age for c in claim.changes if c.age is not None and c.memory_id in landed]
        self.freshness.record(lease.tenant, [age + written.searchable_seconds for age in ages])
        return Outcome(
            lease.tenant,
            written=len(landed) - len(written.deletes),
            deleted=len(written.deletes),
            embedded=len(written.ready) - len(planned.plan.covered),
            reused=len(planned.plan.covered),
            failed=len(failed),
            buried=buried,
            unread_dates=sum(
                bool(unread_dates(d.content.metadata, self.recipe))
                for d in written.ready
                if d.memory.id not in failed
            ),
            newest_change=claim.changes[-1].seq,
            embed_seconds=written.embed_seconds,
            write_seconds=written.write_seconds,
            more=claim.full or claim.resets or planned.cut,
        )
