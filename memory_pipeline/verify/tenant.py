"""Tell the truth about a tenant's collection: what differs from Postgres with nothing on its way.

1. walk through the collection in pages and compare each with Postgres; then the ids of Postgres
   with those that were seen. That gives *doubts*, some of which are only writes under way
2. ask for everything that can be found, by one query with no end; and look closely at a sample:
   vector, text, and whether a search by its own vector finds it
3. look at each doubt again, between two looks at Postgres, and all of that twice. It becomes a
   finding only if the row was the same before and after (version), nothing was pending for it, and
   the document disagreed both times

Memory is bounded by a page and by 8 bytes a memory. Nothing is paused, locked or written.
"""

from __future__ import annotations  # array[int] is for the type checker alone

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.content.document import describe
from memory_pipeline.domain.outcomes import Finding, FindingKind, Verified
from memory_pipeline.domain.types import Generation, MemoryId, Scalar, TenantId, memory_id_of
from memory_pipeline.errors import ChromaUnavailable, Corrupt, ServerLost
from memory_pipeline.ports import RenewLease
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.prefetch import Prefetch, prefetch
from memory_pipeline.verify.double_check import (
    CHECK_SIZE,
    CLOSE_CHECK_SIZE,
    DoubleCheck,
    Sides,
    cut,
)
from memory_pipeline.verify.written_rows import WrittenRows

SAMPLE = 100
# A flip in the middle means that another collection has to be looked at.
FLIPS = 3


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk through a collection has seen: its memories, the doubts, names not of ours."""

    present: array[int]
    doubts: set[MemoryId]
    strangers: tuple[str, ...]
    memories: int


@dataclass(frozen=True, slots=True)
class Verify:
    """Verifies tenants, one after the other in each thread."""

    sides: Sides
    registry: PostgresRegistry
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
            tenant: whose collection.
            generation: a building generation, before it goes live.
            sample: how many documents are compared in full and searched by their own vector;
                None: all of them; 0: none, nor is it asked what can be found.
            known: what the caller has just written, so that rows of the same version need not be
                read again.
            hold: called before each request; tells the seconds that it may take.

        Returns:
            What was looked at and found. A finding without a memory id is about the whole tenant.

        Raises:
            ChromaUnavailable, PostgresUnavailable: nothing can be said now; also where the
                collection was replaced amid every look, for nobody writes the old one any more.

        """
        began = self.clock.monotonic()
        renew = renew or (lambda: self.seconds)
        for _ in range(FLIPS):
            target = generation or self.registry.live(tenant)
            verified = self._look(tenant, target, sample, written_rows, renew)
            now = generation or self.registry.live(tenant)
            if (now and (now.id, now.state)) == (target and (target.id, target.state)):
                return replace(verified, seconds=self.clock.monotonic() - began)
        raise ChromaUnavailable(
            f"its collection was replaced {FLIPS} times while it was looked at", sent=False
        )

    def _look(
        self,
        tenant: TenantId,
        generation: Generation | None,
        sample: int | None,
        written_rows: WrittenRows | None,
        renew: RenewLease,
    ) -> Verified:
        whole = self._of_the_whole(tenant, generation)
        if generation is None or whole is not None:
            return Verified(
                tenant,
                generation.id if generation else None,
                findings=() if whole is None else (whole,),
            )
        try:
            return self._compare(tenant, generation, sample, written_rows, renew)
        except ServerLost as lost:
            return _condemned(tenant, generation, "lost", str(lost))
        except Corrupt as damage:
            return _condemned(tenant, generation, "damaged", str(damage))

    def _of_the_whole(self, tenant: TenantId, generation: Generation | None) -> Finding | None:
        """Tell what is wrong with all of a tenant's collection, without asking it."""
        if generation is None:
            # Counted first: what is written from now on waits, or is in a collection by the end.
            memories = self.sides.memories.count(tenant)
            waits = self.sides.outbox.pending(tenant) or self.registry.building(tenant)
            if waits or not memories:
                return None
            return Finding("no collection", tenant, detail="it has memories, and nothing waits")
        wrong: dict[FindingKind, str] = {}
        if generation.state == "lost":
            wrong["lost"] = "its server was given up"
        elif generation.state == "corrupt":
            wrong["damaged"] = "it was found damaged before"
        elif generation.model != self.sides.model:
            wrong["wrong model"] = f"it was built with {generation.model}"
        elif generation.config_hash != self.sides.recipe.config_hash:
            wrong["wrong model"] = "it was built with other settings"
        return next((Finding(kind, tenant, detail=said) for kind, said in wrong.items()), None)

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
        look = DoubleCheck(self.sides, tenant, generation, renew)
        close: set[MemoryId] = set()
        chosen: Sequence[MemoryId] = ()
        if sample != 0 and scan.present:
            chosen = _choose(scan.present, sample)
            for part in cut(chosen, CLOSE_CHECK_SIZE):  # 2
                close |= look.doubt(part, closely=True)
            close |= self._unlisted(generation, scan.present, renew)
        reach_seconds = self.clock.monotonic() - began
        findings = [
            *look.confirm(sorted(scan.doubts - close), closely=False),  # 3
            *look.confirm(sorted(close), closely=True),
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
            pending=len(look.pending),
            buried=len(look.buried),
            waived=len(look.waived),
            sampled=len(chosen),
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
        pages = self.prefetch(self.sides.index.pages(generation, renew=renew), depth=1)
        try:
            for page in pages:
                held: dict[MemoryId, Mapping[str, Scalar]] = {}
                for name, metadata in page:
                    memory_id = memory_id_of(name)
                    if memory_id is None:
                        strangers.append(name)
                    else:
                        held[memory_id] = metadata
                present.extend(held)
                for part in cut(held, CHECK_SIZE):
                    doubts |= self._differing(tenant, part, held, written_rows)
        finally:
            pages.close()
        memories = 0
        seen = np.sort(np.frombuffer(present, dtype=np.int64)) if present else np.empty(0, np.int64)
        for ids in self.sides.memories.ids(tenant):
            memories += len(ids)
            there = np.isin(np.asarray(ids, dtype=np.int64), seen)
            doubts.update(i for i, found in zip(ids, there.tolist(), strict=True) if not found)
        return Scan(present, doubts, tuple(strangers), memories)

    def _differing(
        self,
        tenant: TenantId,
        ids: Sequence[MemoryId],
        held: Mapping[MemoryId, Mapping[str, Scalar]],
        written_rows: WrittenRows | None,
    ) -> set[MemoryId]:
        """Compare documents with their rows, but for those whose rows are known by version."""
        covered: set[MemoryId] = set()
        if written_rows is not None:
            covered = {
                i
                for i, (whose, version) in self.sides.memories.versions(ids).items()
                if whose == tenant and written_rows.covers(i, version)
            }
        rows = self.sides.memories.get(tenant, [i for i in ids if i not in covered])
        return {
            i
            for i in ids
            if not (written_rows is not None and i in covered and written_rows.matches(i, held[i]))
            and ((row := rows.get(i)) is None or describe(row, self.sides.recipe) != dict(held[i]))
        }

    # ---- 2: what can be found

    def _unlisted(
        self, generation: Generation, present: array[int], renew: RenewLease
    ) -> set[MemoryId]:
        """Return the documents that no query lists, however many results it may have."""
        names = self.sides.index.reachable_ids(generation, len(present), seconds=renew())
        listed = {memory_id_of(name) for name in names}
        return {MemoryId(i) for i in present if i not in listed}


def _condemned(
    tenant: TenantId, generation: Generation, kind: FindingKind, detail: str
) -> Verified:
    return Verified(tenant, generation.id, findings=(Finding(kind, tenant, detail=detail),))


def _choose(present: array[int], sample: int | None) -> list[MemoryId]:
    """Choose other documents each time, so that in time every one was looked at."""
    if sample is None or sample >= len(present):
        return [MemoryId(i) for i in present]
    places = np.random.default_rng().choice(len(present), size=sample, replace=False)
    return [MemoryId(present[int(at)]) for at in places]
