"""Rebuild one tenant: build a second collection, prove it, flip searches to it. Searches continue.

begin → load → catch up → verify → flip. The order is the design:

1. begin a generation and create its collection; register it as the building one under the tenant's
   lease. From that commit on, every batch writes live *and* building
2. read, compose and embed a chunk, ahead of the writes and outside the lease
3. under the lease: query the version of every row of the chunk, read the changed rows again, write
   the rows as they are now, and record the chunk as done under that very token
4. sync the tenant's due changes, so that a tenant under rebuild stays as fresh as any other
5. when every chunk is done, verify the building generation and repair what differs
6. flip: one statement under the token. The old generation is kept for searches in progress

If a chunk ends in a lost lease, a timeout or a crash, its request may still reach Chroma. The chunk
is retried only after ``redo_seconds``, when that request can no longer arrive: this process waits;
another process waits for our ownership to expire, which takes equally long.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from uuid import UUID

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    RebuildId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.errors import ChromaUnavailable, ConfigurationChanged, Corrupt
from memory_pipeline.logs import get_logger
from memory_pipeline.prefetch import Prefetch, prefetch
from memory_pipeline.rebuild.chunks import ChunkWriter
from memory_pipeline.rebuild.ownership import Ownership, Stopped
from memory_pipeline.rebuild.ports import Index, Outbox, Rebuilds, Registry
from memory_pipeline.rebuild.proof import Proof, Prover
from memory_pipeline.rebuild.retries import INTERRUPTIONS, GiveUp, NewGeneration, Retries, Retry
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.written_rows import WrittenRows

log = get_logger("memory_pipeline.rebuild.tenant")

# While one chunk is written, the next is ready and the one after that is read.
CHUNKS_AHEAD = 1
# The largest batch size that the settings allow: an interrupted chunk may have had as many
# documents, whatever the settings are now.
LONGEST_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Target:
    """The generation to fill, how far it is filled, and whether it is known to be empty."""

    generation: Generation
    checkpoint: Checkpoint
    is_empty: bool


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
    prover: Prover | None  # None: a benchmark measures what the proof costs
    chunk_documents: int
    chunk_documents_idle: int
    clock: Clock = SYSTEM_CLOCK
    prefetch: Prefetch = prefetch

    def run(
        self,
        rebuild: RebuildId,
        tenant: TenantId,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Rebuilt:
        """Rebuild one tenant as its part of a rebuild that was requested for it.

        A failure of this tenant alone is returned as a verdict, never raised.

        Args:
            rebuild: the rebuild; what it has done for the tenant before is not done again.
            tenant: the tenant.
            progress: called with the number of documents of each chunk that is done.

        Raises:
            PostgresUnavailable: nothing can be done for any tenant.

        """
        began = self.clock.monotonic()
        try:
            part = self.ownership.acquire(rebuild, tenant)
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
            tenant=tenant,
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
        """Attempt until the tenant is rebuilt or the retries are used up."""
        so_far, retries = Rebuilt(part.tenant), Retries()

        def count(more: Rebuilt) -> None:
            nonlocal so_far, retries
            so_far, retries = more, retries.after_a_chunk()
            progress(more.documents)

        while True:
            try:
                return self._attempt(part, so_far, count, retries.damaged)
            except INTERRUPTIONS as error:
                decision = self._decide(part, retries, error)
            _log_interruption(part, decision)
            self.ownership.wait_for_sent_requests()
            if isinstance(decision, GiveUp):
                self.rebuilds.fail_part(part, decision.reason)
                return replace(so_far, verdict="failed", reason=decision.reason)
            retries = decision.retries
            self.ownership.check_stop()
            if self.ownership.is_lost(part):
                return self._after_loss(part, so_far)

    def _decide(
        self, part: RebuildPart, retries: Retries, error: Exception
    ) -> Retry | NewGeneration | GiveUp:
        decision = retries.after(error)
        if isinstance(decision, GiveUp) and isinstance(error, ChromaUnavailable):
            wedged = self._wedged(part)
            if wedged is not None:
                return retries.replace_generation(wedged, decision.reason)
        return decision

    def _wedged(self, part: RebuildPart) -> UUID | None:
        """Return the building generation where it alone fails: its server takes writes.

        Every later rebuild that resumed it would fail as well.
        """
        building = self.registry.building(part.tenant)
        if building is None or not self.index.takes_writes(building.server):
            return None
        return building.id

    def _after_loss(self, part: RebuildPart, so_far: Rebuilt) -> Rebuilt:
        """Return the outcome where the part is no longer ours.

        Its own flip may have ended it, if only the reply was lost.
        """
        if self.rebuilds.part_state(part.rebuild, part.tenant) == "done":
            return so_far
        return replace(so_far, verdict="busy", reason="another process has taken it over")

    def _attempt(
        self,
        part: RebuildPart,
        so_far: Rebuilt,
        count: Callable[[Rebuilt], None],
        damaged: UUID | None,
    ) -> Rebuilt:
        target, written_rows = self._target(part, damaged), WrittenRows()  # 1
        so_far = self._fill(part, target, so_far, count, written_rows)  # 2, 3 and 4
        began = self.clock.monotonic()
        proof = Proof()
        if self.prover is not None:
            proof = self.prover.prove(  # 5
                part,
                target.generation,
                written_rows,
                catch_up=lambda: self._catch_up(part.tenant),
            )
        self._flip(part, target.generation, proof.documents)  # 6
        return replace(
            so_far,
            repaired=so_far.repaired + proof.repaired,
            documents=proof.documents,
            verify_seconds=self.clock.monotonic() - began,
        )

    def _fill(
        self,
        part: RebuildPart,
        target: Target,
        so_far: Rebuilt,
        count: Callable[[Rebuilt], None],
        written_rows: WrittenRows,
    ) -> Rebuilt:
        """Write every chunk after the checkpoint, and sync the tenant's changes between them."""
        generation = target.generation
        # Documents after the checkpoint that an interrupted chunk may have written already.
        half_written = 0 if target.is_empty else LONGEST_CHUNK
        chunks = self.prefetch(  # 2
            self.chunk_writer.chunks(
                part,
                target.checkpoint,
                size=lambda: self._chunk_size(generation),
                renew=self.ownership.renewal(part),
            ),
            depth=CHUNKS_AHEAD,
        )
        with closing(chunks):
            for chunk in chunks:
                # A document that a batch has written since stays: it is newer. With re_embed it
                # may have its old vector, and is written over.
                add_only = half_written <= 0 and not part.re_embed
                with self.ownership.leased(part, generation) as lease:  # 3
                    written = self.chunk_writer.write(
                        part, lease, generation, chunk, add_only=add_only, written_rows=written_rows
                    )
                half_written -= written.documents
                so_far = replace(
                    so_far,
                    written=so_far.written + written.documents,
                    embedded=so_far.embedded + written.embedded,
                    reused=so_far.reused + written.documents - written.embedded,
                    documents=written.documents,
                )
                count(so_far)
                self._catch_up(part.tenant)  # 4
        return so_far

    def _chunk_size(self, generation: Generation) -> int:
        """Return the size of the next chunk: small while other tenants' writes wait for it."""
        others = self.registry.serves_others(generation.server, generation.tenant)
        return self.chunk_documents if others else self.chunk_documents_idle

    # ---- 1: the generation

    def _target(self, part: RebuildPart, damaged: UUID | None) -> Target:
        """Resume the building generation if it is usable; otherwise begin another."""
        building = self.registry.building(part.tenant)
        if building is not None:
            checkpoint = self.rebuilds.checkpoint(building)
            if building.id != damaged and self._is_usable(part, building, checkpoint):
                self.rebuilds.resume_part(part, building, checkpoint)
                return Target(building, checkpoint, is_empty=False)
            self._abandon(part, building)
        begun = self.sync.generations.begin(part.tenant, renew=self.ownership.renewal(part))
        generation = replace(begun, state="building")
        self.index.prime(generation, renew=self.ownership.renewal(part))
        with self.ownership.leased(part) as lease:
            self.rebuilds.register_building(part, lease, generation)
        return Target(generation, Checkpoint(), is_empty=True)

    def _is_usable(self, part: RebuildPart, building: Generation, checkpoint: Checkpoint) -> bool:
        """Whether a generation that another attempt has left can be resumed."""
        if part.re_embed and not checkpoint.re_embed:
            return False
        try:
            self.sync.generations.check(building)
            self.index.prime(building, renew=self.ownership.renewal(part))
        except (ConfigurationChanged, Corrupt):
            return False
        return True

    def _abandon(self, part: RebuildPart, generation: Generation) -> None:
        # Only while it is the one to fill: another owner may have flipped to it since it was read.
        with self.ownership.leased(part, generation) as lease:
            self.registry.abandon(lease, generation.id)

    # ---- 4: catch up

    def _catch_up(self, tenant: TenantId) -> None:
        """Sync the due changes: between chunks, no other worker finds the tenant's lease free."""
        if self.outbox.has_due_changes(tenant):
            self.sync.run(tenant)

    # ---- 6: flip

    def _flip(self, part: RebuildPart, generation: Generation, documents: int) -> None:
        with self.ownership.leased(part, generation) as lease:
            self.rebuilds.flip(part, lease, generation, memories=documents)


def _log_interruption(part: RebuildPart, decision: Retry | NewGeneration | GiveUp) -> None:
    damaged = None if isinstance(decision, Retry) else decision.generation
    log.warning(
        "rebuild_interrupted",
        tenant=part.tenant,
        rebuild=part.rebuild,
        **({} if damaged is None else {"generation": str(damaged)}),
        reason=decision.reason,
        next=decision.what_follows,
    )
