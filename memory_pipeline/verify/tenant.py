"""Verify one tenant: report what differs between Postgres and its collection, with nothing pending.

1. read the collection in pages and compare each page with Postgres; then compare the ids of
   Postgres with those of the collection. The result are *doubts*: some are writes in progress
2. query for every reachable document, without a limit; and check a sample closely: its vector, its
   text, and whether a search by its own vector finds it
3. check each doubt again, between two reads of Postgres, and all of that twice. It becomes a
   finding only if the row was the same before and after (version), nothing was pending for it, and
   the document differed both times

Memory is bounded by a page and by 8 bytes a memory. Nothing is paused, locked or written.
"""

from __future__ import annotations  # array[int] is for the type checker alone

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.content.document import describe, same_metadata, unread_dates
from memory_pipeline.domain.outcomes import Finding, FindingKind, Verified
from memory_pipeline.domain.types import Generation, MemoryId, MetadataValue, TenantId, memory_id_of
from memory_pipeline.errors import ChromaUnavailable, Corrupt, ServerLost
from memory_pipeline.ports import RenewLease
from memory_pipeline.prefetch import Prefetch, prefetch
from memory_pipeline.verify.double_check import (
    CHECK_SIZE,
    CLOSE_CHECK_SIZE,
    DoubleCheck,
    Sides,
    cut,
)
from memory_pipeline.verify.ports import Registry
from memory_pipeline.verify.written_rows import WrittenRows

SAMPLE = 100
# A flip during a verify means that the new collection has to be verified instead.
MAX_FLIPS = 3


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of reading a whole collection and the ids of Postgres.

    ``present``: the memories that have a document. ``strangers``: document ids that the pipeline
    did not write. ``memories``: how many there are in Postgres. ``unread_dates``: how many
    documents have a date that cannot be read.
    """

    present: array[int]
    doubts: set[MemoryId]
    strangers: tuple[str, ...]
    memories: int
    unread_dates: int


@dataclass(frozen=True, slots=True)
class Verify:
    """Verifies tenants, one after the other in each thread."""

    sides: Sides
    registry: Registry
    seconds: float
    clock: Clock = SYSTEM_CLOCK
    prefetch: Prefetch = prefetch

    def run(
        self,
        tenant: TenantId,
        *,
        generation: Generation | None = None,
        sample: int | None = SAMPLE,
        written_rows: WrittenRows | None = None,
        renew: RenewLease | None = None,
    ) -> Verified:
        """Verify the live generation of a tenant, or the given one.

        Args:
            tenant: the tenant.
            generation: a building generation, before its flip.
            sample: how many documents are compared in full and searched by their own vector;
                None: all of them; 0: none, and reachability is not checked at all.
            written_rows: what the caller has just written; rows that still have the version of
                then are not read again.
            renew: called before each request; returns the seconds that the request may take.

        Returns:
            What was compared and found. A finding without a memory id is about the whole tenant.

        Raises:
            ChromaUnavailable, PostgresUnavailable: no verdict is possible now; also where the
                collection was replaced during each of three verifies, because no worker writes a
                replaced collection any more.

        """
        began = self.clock.monotonic()
        renew = renew or (lambda: self.seconds)
        for _ in range(MAX_FLIPS):
            target = generation or self.registry.live(tenant)
            verified = self._verify_once(tenant, target, sample, written_rows, renew)
            now = generation or self.registry.live(tenant)
            if (now and (now.id, now.state)) == (target and (target.id, target.state)):
                return replace(verified, seconds=self.clock.monotonic() - began)
        raise ChromaUnavailable(
            f"its collection was replaced {MAX_FLIPS} times during a verify", sent=False
        )

    def _verify_once(
        self,
        tenant: TenantId,
        generation: Generation | None,
        sample: int | None,
        written_rows: WrittenRows | None,
        renew: RenewLease,
    ) -> Verified:
        finding = self._check_generation(tenant, generation)
        if generation is None or finding is not None:
            return Verified(
                tenant,
                generation.id if generation else None,
                findings=() if finding is None else (finding,),
            )
        try:
            return self._compare(tenant, generation, sample, written_rows, renew)
        except ServerLost as lost:
            return _one_finding(tenant, generation, "lost", str(lost))
        except Corrupt as damage:
            return _one_finding(tenant, generation, "damaged", str(damage))

    def _some_memories(self, tenant: TenantId) -> set[MemoryId]:
        """Return the first of a tenant's memories, a page of them."""
        return set(next(iter(self.sides.memories.ids(tenant)), []))

    def _check_generation(self, tenant: TenantId, generation: Generation | None) -> Finding | None:
        """Return what the registry says is wrong with all of a tenant's collection."""
        if generation is None:
            # Read before: a memory written after that has a pending change, or a collection. Read
            # again after: the tenant may have been forgotten in between, and until then have had a
            # collection, which the comparison of before and after does not show.
            before = self._some_memories(tenant)
            waits = self.sides.outbox.pending(tenant) or self.registry.building(tenant)
            waits = waits or self.registry.live(tenant)
            if waits or not before & self._some_memories(tenant):
                return None
            return Finding(
                "no collection", tenant, detail="it has memories, and no change is pending"
            )
        wrong: dict[FindingKind, str] = {}
        if generation.state == "lost":
            wrong["lost"] = "its server was retired"
        elif generation.state == "corrupt":
            wrong["damaged"] = "it was found damaged before"
        elif generation.model != self.sides.model:
            wrong["wrong model"] = f"it was built with {generation.model}"
        elif generation.config_hash != self.sides.recipe.config_hash:
            wrong["wrong model"] = "it was built with other settings"
        return next((Finding(kind, tenant, detail=detail) for kind, detail in wrong.items()), None)

    def _compare(
        self,
        tenant: TenantId,
        generation: Generation,
        sample: int | None,
        written_rows: WrittenRows | None,
        renew: RenewLease,
    ) -> Verified:
        scan = self._scan(tenant, generation, written_rows, renew)  # 1
        began = self.clock.monotonic()
        double_check = DoubleCheck(self.sides, tenant, generation, renew)
        close_doubts: set[MemoryId] = set()
        chosen: Sequence[MemoryId] = ()
        if sample != 0 and scan.present:
            chosen = _choose(scan.present, sample)
            for slice_ in cut(chosen, CLOSE_CHECK_SIZE):  # 2
                close_doubts |= double_check.doubt(slice_, closely=True)
            close_doubts |= self._unreachable(generation, scan.present, renew)
        reach_seconds = self.clock.monotonic() - began
        findings = [
            *double_check.confirm(sorted(scan.doubts - close_doubts), closely=False),  # 3
            *double_check.confirm(sorted(close_doubts), closely=True),
            *(
                Finding("foreign", tenant, detail=f"a document named {name[:40]!r}")
                for name in scan.strangers
            ),
        ]
        return Verified(
            tenant,
            generation.id,
            documents=len(scan.present) + len(scan.strangers),
            memories=scan.memories,
            pending=len(double_check.pending),
            buried=len(double_check.buried),
            waived=len(double_check.waived),
            sampled=len(chosen),
            unread_dates=scan.unread_dates,
            reach_seconds=reach_seconds,
            findings=tuple(findings),
        )

    # ---- 1: everything, by metadata

    def _scan(
        self,
        tenant: TenantId,
        generation: Generation,
        written_rows: WrittenRows | None,
        renew: RenewLease,
    ) -> Scan:
        present: array[int] = array("q")
        doubts: set[MemoryId] = set()
        strangers: list[str] = []
        unread = 0
        pages = self.prefetch(self.sides.index.pages(generation, renew=renew), depth=1)
        try:
            for page in pages:
                held: dict[MemoryId, Mapping[str, MetadataValue]] = {}
                for name, metadata in page:
                    memory_id = memory_id_of(name)
                    if memory_id is None:
                        strangers.append(name)
                    else:
                        held[memory_id] = metadata
                        unread += bool(unread_dates(metadata, self.sides.recipe))
                present.extend(held)
                for slice_ in cut(held, CHECK_SIZE):
                    doubts |= self._differing(tenant, slice_, held, written_rows)
        finally:
            pages.close()
        memories = 0
        seen = np.sort(np.frombuffer(present, dtype=np.int64)) if present else np.empty(0, np.int64)
        for ids in self.sides.memories.ids(tenant):
            memories += len(ids)
            stored = np.isin(np.asarray(ids, dtype=np.int64), seen)
            doubts.update(i for i, found in zip(ids, stored.tolist(), strict=True) if not found)
        return Scan(present, doubts, tuple(strangers), memories, unread)

    def _differing(
        self,
        tenant: TenantId,
        ids: Sequence[MemoryId],
        held: Mapping[MemoryId, Mapping[str, MetadataValue]],
        written_rows: WrittenRows | None,
    ) -> set[MemoryId]:
        """Return the documents that differ from their rows; rows known by version are not read."""
        covered: set[MemoryId] = set()
        if written_rows is not None:
            covered = {
                i
                for i, (owner, version) in self.sides.memories.versions(ids).items()
                if owner == tenant and written_rows.covers(i, version)
            }
        rows = self.sides.memories.get(tenant, [i for i in ids if i not in covered])
        return {
            i
            for i in ids
            if not (written_rows is not None and i in covered and written_rows.matches(i, held[i]))
            and (
                (row := rows.get(i)) is None
                or not same_metadata(held[i], describe(row, self.sides.recipe))
            )
        }

    # ---- 2: reachability

    def _unreachable(
        self, generation: Generation, present: array[int], renew: RenewLease
    ) -> set[MemoryId]:
        """Return the documents that no query returns, whatever its limit."""
        names = self.sides.index.reachable_ids(generation, len(present), seconds=renew())
        reachable = {memory_id_of(name) for name in names}
        return {MemoryId(i) for i in present if i not in reachable}


def _one_finding(
    tenant: TenantId, generation: Generation, kind: FindingKind, detail: str
) -> Verified:
    return Verified(tenant, generation.id, findings=(Finding(kind, tenant, detail=detail),))


def _choose(present: array[int], sample: int | None) -> list[MemoryId]:
    """Choose documents at random, so that many verifies together cover all of them."""
    if sample is None or sample >= len(present):
        return [MemoryId(i) for i in present]
    positions = np.random.default_rng().choice(len(present), size=sample, replace=False)
    return [MemoryId(present[int(at)]) for at in positions]
