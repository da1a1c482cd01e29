"""Build a tenant's collection anew beside the live one, prove it, and flip to it. Searches go on.

begin → load → catch up → verify → flip. The order is the design:

1. begin a generation and create its collection; register it as the building one under the tenant's
   lease. From that commit on, every batch of the heart writes live *and* building
2. read, compose and embed a chunk, ahead of the writes and outside the lease
3. under the lease: look at the version of every row of the chunk, read again those that moved,
   write what stands now, and record the chunk as done under that very token
4. sync what waits, so that a tenant under rebuild stays as fresh as any other
5. when every chunk is done, verify the building generation and mend what differs
6. flip: one statement under the token. The old generation is kept for searches under way

A chunk that ended otherwise (a lease lost, a timeout, a crash) may still be on its way. It is done
again once that request must have landed or died: by this process after a pause, by another one when
the ownership of this one has run out, which takes as long.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Rebuilt, Verified
from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    MemoryId,
    RebuildId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.errors import (
    ChromaUnavailable,
    ConfigurationChanged,
    Corrupt,
    Fenced,
    Poison,
    Transient,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.ports import Index, Outbox, Rebuilds, Registry
from memory_pipeline.prefetch import Prefetch, prefetch
from memory_pipeline.rebuild.chunks import ChunkWriter
from memory_pipeline.rebuild.ownership import GivenUp, Ownership, Stopped
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.tenant import Verify
from memory_pipeline.verify.written_rows import WrittenRows

log = get_logger("memory_pipeline.rebuild.tenant")

# While one chunk is written, the next stands ready and the one after that is read.
CHUNKS_AHEAD = 1
# No setting allows more; so long may be what somebody has left half-written, whatever they are now.
LONGEST_CHUNK = 5_000
# Failures in a row without a chunk done between them, and generations given up.
MOST_FAILURES = 5
MOST_GENERATIONS = 3
# Mending what a verify found leaves at most what arrived meanwhile; a tight crowd of nearly equal
# vectors keeps some unreachable whatever is done.
VERIFY_ROUNDS = 4
# Documents that are searched by their own vector, and compared in full, before the flip: all were
# just written, and everything that can be found is asked for anyway. Each costs a millisecond.
SAMPLE = 10


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Rebuilds tenants, one at a time in each thread."""

    ownership: Ownership
    outbox: Outbox
    registry: Registry
    rebuilds: Rebuilds
    index: Index
    chunk_writer: ChunkWriter
    sync: Sync
    verify: Verify
    chunk_documents: int
    chunk_documents_idle: int
    proves: bool = True  # a benchmark measures what the proof costs
    sample: int = SAMPLE
    clock: Clock = SYSTEM_CLOCK
    prefetch: Prefetch = prefetch

    def run(
        self,
        rebuild: RebuildId,
        tenant: TenantId,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Rebuilt:
        """Rebuild one tenant as a part of a rebuild that was asked for it.

        Never raises for the tenant's own troubles: the verdict tells them.

        Args:
            rebuild: whose part this is; what it has done for the tenant before is not done again.
            tenant: whose collection.
            progress: told the number of documents of each chunk that is done.

        Raises:
            PostgresUnavailable: nothing can be said about any tenant.

        """
        began = self.clock.monotonic()
        try:
            part = self.ownership.own(rebuild, tenant)
        except Stopped:
            return Rebuilt(tenant, "stopped")
        if part is None:
            if self.rebuilds.part_state(rebuild, tenant) == "done":
                return Rebuilt(tenant, "skipped")
            return Rebuilt(tenant, "busy", reason="another rebuild of this tenant is under way")
        try:
            rebuilt = self._persist(part, progress)
        except Stopped:
            self.rebuilds.release_part(part)
            return Rebuilt(tenant, "stopped")
        rebuilt = replace(rebuilt, seconds=self.clock.monotonic() - began)
        log.info(
            "rebuilt",
            rebuild=rebuild,
            verdict=rebuilt.verdict,
            written=rebuilt.written,
            embedded=rebuilt.embedded,
            repaired=rebuilt.repaired,
            ms=round(rebuilt.seconds * 1000),
            reason=rebuilt.reason,
        )
        return rebuilt

    def _persist(self, part: RebuildPart, progress: Callable[[int], None]) -> Rebuilt:
        """Attempt until it succeeds or is hopeless; what is done is not done again."""
        so_far = Rebuilt(part.tenant)
        failures = generations = 0
        damaged: UUID | None = None

        def count(more: Rebuilt) -> None:
            nonlocal so_far, failures
            so_far, failures = more, 0
            progress(more.documents)

        while True:
            try:
                return self._attempt(part, so_far, count, damaged)
            except (GivenUp, Corrupt, Poison) as lost:
                generations += 1
                damaged = getattr(lost, "generation", None)
                reason = str(lost) or "its generation was given up: a write to it failed"
            except (Transient, Fenced) as error:
                failures += 1
                reason = str(error)
                wedged = self._wedged(part, error) if failures == MOST_FAILURES else None
                if wedged is not None:
                    damaged, failures, generations = wedged, 0, generations + 1
            log.warning("rebuild_interrupted", rebuild=part.rebuild, reason=reason)
            self.ownership.settle()
            if failures == MOST_FAILURES or generations == MOST_GENERATIONS:
                self.rebuilds.fail_part(part, reason)
                return replace(so_far, verdict="failed", reason=reason)
            self.ownership.pause(0)
            if self.ownership.is_lost(part):
                # Perhaps by its own end: the answer to the flip was lost.
                if self.rebuilds.part_state(part.rebuild, part.tenant) == "done":
                    return so_far
                return replace(so_far, verdict="busy", reason="another process has taken it over")

    def _wedged(self, part: RebuildPart, error: Exception) -> UUID | None:
        """Return the generation to fill, where it alone fails while its server takes writes.

        Whoever went on with such a one would fail as well, for ever.
        """
        if not isinstance(error, ChromaUnavailable):
            return None
        building = self.registry.building(part.tenant)
        if building is None or not self.index.takes_writes(building.server):
            return None
        return building.id

    def _attempt(
        self,
        part: RebuildPart,
        so_far: Rebuilt,
        count: Callable[[Rebuilt], None],
        damaged: UUID | None,
    ) -> Rebuilt:
        generation, checkpoint, empty = self._generation(part, damaged)  # 1
        doubtful = 0 if empty else LONGEST_CHUNK
        renew, written_rows = self.ownership.renewal(part), WrittenRows()
        chunks = self.prefetch(  # 2
            self.chunk_writer.chunks(
                part,
                checkpoint,
                size=lambda: self._chunk_size(generation),
                renew=renew,
            ),
            depth=CHUNKS_AHEAD,
        )
        try:
            for chunk in chunks:
                # What a batch has written meanwhile stays as it is, but with its old vector.
                add_only = doubtful <= 0 and not part.re_embed
                with self.ownership.leased(part, generation) as lease:  # 3
                    written, embedded = self.chunk_writer.write(
                        part, lease, generation, chunk, add_only=add_only, written_rows=written_rows
                    )
                doubtful -= written
                so_far = replace(
                    so_far,
                    written=so_far.written + written,
                    embedded=so_far.embedded + embedded,
                    reused=so_far.reused + written - embedded,
                    documents=written,
                )
                count(so_far)
                self._catch_up(part.tenant)  # 4
        finally:
            chunks.close()
        began = self.clock.monotonic()
        repaired, documents = (
            self._prove(part, generation, written_rows) if self.proves else (0, 0)
        )  # 5
        so_far = replace(so_far, repaired=so_far.repaired + repaired)
        self._flip(part, generation, documents)  # 6
        return replace(so_far, documents=documents, verify_seconds=self.clock.monotonic() - began)

    def _chunk_size(self, generation: Generation) -> int:
        """Small where small writes of others wait for it; large where nobody does."""
        others = self.registry.serves_others(generation.server, generation.tenant)
        return self.chunk_documents if others else self.chunk_documents_idle

    # ---- 1: the generation

    def _generation(
        self, part: RebuildPart, damaged: UUID | None
    ) -> tuple[Generation, Checkpoint, bool]:
        """Return the generation to fill, how far it is, and whether it is known to be empty."""
        building = self.registry.building(part.tenant)
        if building is not None:
            checkpoint = self.rebuilds.checkpoint(building)
            if building.id != damaged and self._fits(part, building, checkpoint):
                self.rebuilds.resume_part(part, building, checkpoint)
                return building, checkpoint, False
            self._abandon(part, building)
        begun = self.sync.generations.begin(part.tenant, renew=self.ownership.renewal(part))
        generation = replace(begun, state="building")
        self.index.prime(generation, renew=self.ownership.renewal(part))
        with self.ownership.leased(part) as lease:
            self.rebuilds.register_building(part, lease, generation)
        return generation, Checkpoint(), True

    def _fits(self, part: RebuildPart, building: Generation, checkpoint: Checkpoint) -> bool:
        """Say whether a generation that somebody left can be gone on with."""
        if part.re_embed and not checkpoint.re_embed:
            return False
        try:
            self.sync.generations.check(building)
            self.index.prime(building, renew=self.ownership.renewal(part))
        except (ConfigurationChanged, Corrupt):
            return False
        return True

    def _abandon(self, part: RebuildPart, generation: Generation) -> None:
        # Only while it is the one to fill: another owner may have let it live since it was read.
        with self.ownership.leased(part, generation) as lease:
            self.registry.abandon(lease, generation.id)

    # ---- 4 and 5: catch up and prove

    def _catch_up(self, tenant: TenantId) -> None:
        """Sync what is due, if anything is: while chunks are written nobody else comes to it."""
        if self.outbox.has_due_changes(tenant):
            self.sync.run(tenant)

    def _prove(
        self, part: RebuildPart, generation: Generation, written_rows: WrittenRows
    ) -> tuple[int, int]:
        """Verify until nothing but what is on its way differs; return repaired and documents."""
        repaired = 0
        for round_ in range(VERIFY_ROUNDS):
            self._catch_up(part.tenant)
            verified = self._verified(part, generation, written_rows)
            wrong = {f.memory_id for f in verified.findings if f.memory_id is not None}
            stubborn = round_ and all(f.kind == "unreachable" for f in verified.findings)
            if not wrong or (stubborn and round_ + 1 == VERIFY_ROUNDS):
                return repaired, verified.documents
            self._repair(part, generation, sorted(wrong))
            repaired += len(wrong)
        raise Corrupt("what was written to it does not stand in it", generation=generation.id)

    def _verified(
        self, part: RebuildPart, generation: Generation, written_rows: WrittenRows
    ) -> Verified:
        verified = self.verify.run(
            part.tenant,
            generation=generation,
            sample=self.sample,
            written_rows=written_rows,
            renew=self.ownership.renewal(part),
        )
        for finding in verified.findings:
            if finding.memory_id is None:
                raise Corrupt(finding.detail or finding.kind, generation=generation.id)
        return verified

    def _repair(self, part: RebuildPart, generation: Generation, ids: Sequence[MemoryId]) -> None:
        for at in range(0, len(ids), self.chunk_documents):
            with self.ownership.leased(part, generation) as lease:
                self.chunk_writer.repair(
                    part, lease, generation, ids[at : at + self.chunk_documents]
                )

    # ---- 6: flip

    def _flip(self, part: RebuildPart, generation: Generation, documents: int) -> None:
        with self.ownership.leased(part, generation) as lease:
            self.rebuilds.flip(part, lease, generation, memories=documents)
