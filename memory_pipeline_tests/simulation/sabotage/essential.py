"""The fourteen bugs that every pipeline of this kind has to notice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure, Verified
from memory_pipeline.domain.types import (
    Generation,
    Memory,
    MemoryId,
    TenantId,
)
from memory_pipeline.errors import ChromaUnavailable, PipelineError, Transient
from memory_pipeline.ports import Lease
from memory_pipeline.rebuild.proof import Proof, Prover
from memory_pipeline.sync.batch import Batch
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.fakes import (
    FakeChange,
    FakeLease,
    FakeMemories,
    FakeOutbox,
    FakeWorld,
)
from memory_pipeline_tests.simulation.sabotage.planting import RENEWED, _unfenced, bug, instead


@bug("S1 ack before write", "a change is forgotten only once Chroma has what it asked for")
def _ack_first() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def claim_and_forget(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            for change in found.changes:
                self.world.changes.pop(change.seq, None)
            return found

        return claim_and_forget

    with instead(FakeOutbox, "claim", made):
        yield


@bug(
    "S2 ack without token", "an ack deletes only what its own token claimed, while its lease stands"
)
def _ack_without_token() -> Iterator[None]:
    def claimed(self: FakeOutbox, lease: Lease, claim: Claim) -> list[FakeChange]:
        return [c for c in map(self.world.changes.get, (c.seq for c in claim.changes)) if c]

    with patch.object(FakeOutbox, "_claimed", claimed), _unfenced("outbox.ack"):
        yield


@bug("S3 cursor instead of claim", "no cursor: what commits late is found as well")
def _cursor() -> Iterator[None]:
    def claimable(self: FakeWorld, tenant: TenantId) -> list[FakeChange]:
        seen = self.__dict__.setdefault("cursors", {}).get(tenant, 0)
        return [
            c
            for c in self.changes.values()
            if c.tenant == tenant and c.not_before <= self.now and c.seq > seen
        ]

    def made(ack: Any) -> Any:
        def move_on(self: FakeOutbox, lease: Lease, claim: Claim, **more: Any) -> Any:
            buried = ack(self, lease, claim, **more)
            cursors = self.world.__dict__.setdefault("cursors", {})
            cursors[lease.tenant] = max(c.seq for c in claim.changes)
            return buried

        return move_on

    with patch.object(FakeWorld, "claimable", claimable), instead(FakeOutbox, "ack", made):
        yield


@bug("S4 hints alone, no poll", "polling finds what no hint told")
def _hints_alone() -> Iterator[None]:
    def made(pending: Any) -> Any:
        def hinted(self: Any, *, paused: bool = False) -> list[TenantId]:
            # A hint reaches whoever listens when it is sent, and nobody else.
            written = len(self.world.stated)
            heard, self.__dict__["heard"] = self.__dict__.get("heard", written), written
            found: list[TenantId] = pending(self, paused=paused)
            return found if written > heard else []

        return hinted

    with instead(FakeOutbox, "pending_tenants", made):
        yield


@bug("S5 no reading after the claim", "a batch reads the rows as they stand after its claim")
def _no_reading() -> Iterator[None]:
    def made(take: Any) -> Any:
        def take_and_read(self: Any, tenant: TenantId) -> Any:
            lease = take(self, tenant)
            memories = FakeMemories(self.world)
            self.world.__dict__.setdefault("read", {})[self.world.scheduler.current] = {
                i: memories._row(i, vectors=True) for i in self.world.rows
            }
            return lease

        return take_and_read

    def made_read(read: Any) -> Any:
        def stale(self: Batch, lease: Lease, claim: Claim) -> Any:
            world = lease.world  # type: ignore[attr-defined]
            rows = world.read.get(world.scheduler.current, {})

            class Stale:
                def read(self, ids: Sequence[MemoryId]) -> Any:
                    return {i: rows[i] for i in ids if i in rows}, ()

            return read(replace(self, memories=cast("Any", Stale())), lease, claim)

        return stale

    with instead(FakeOutbox, "acquire_lease", made), instead(Batch, "_read", made_read):
        yield


@bug("S6 the old tenant of a move is forgotten", "a move is a change of either tenant")
def _old_tenant() -> Iterator[None]:
    def made(capture: Any) -> Any:
        def one_sided(
            self: FakeWorld, memory_id: MemoryId, before: Memory | None, after: Memory | None
        ) -> None:
            moved = before is not None and after is not None and before.tenant != after.tenant
            capture(self, memory_id, None if moved else before, after)

        return one_sided

    with instead(FakeWorld, "capture", made):
        yield


@bug("S7 TRUNCATE is ignored", "a TRUNCATE is one reset of every tenant")
def _truncate() -> Iterator[None]:
    def truncate(self: FakeWorld) -> None:
        self.rows.clear()

    with patch.object(FakeWorld, "truncate", truncate):
        yield


@bug(
    "S8 acks by key, not by number",
    "an ack names the changes that were claimed, not their memories",
)
def _by_key() -> Iterator[None]:
    def claimed(self: FakeOutbox, lease: Lease, claim: Claim) -> list[FakeChange]:
        ids = set(claim.memory_ids)
        changes = self.world.changes.values()
        return [c for c in changes if c.tenant == lease.tenant and c.memory_id in ids]

    with patch.object(FakeOutbox, "_claimed", claimed):
        yield


@bug("S9 flip before verify", "a generation is proven before searches go to it")
def _no_proof() -> Iterator[None]:
    with patch.object(Prover, "prove", lambda *_, **__: Proof()):
        yield


@bug("S10 a rebuild without double writes", "a claim names live and building")
def _one_target() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def live_alone(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            live = [g for g in found.targets if g.state == "live"]
            return replace(found, targets=tuple(live or found.targets))

        return live_alone

    with instead(FakeOutbox, "claim", made):
        yield


@bug(RENEWED, "whoever lost the lease cannot renew it")
def _renewed_by_anybody() -> Iterator[None]:
    def renew(self: FakeLease) -> float:
        with self.world.step("lease.renew"):
            tenant = self.world.tenant(self.tenant)
            tenant.lease_until = self.world.now + self.world.settings.lease_seconds
        return self.world.settings.request_seconds

    with patch.object(FakeLease, "renew", renew):
        yield


@bug("S12 outages are charged", "an outage is nobody's fault")
def _charged() -> Iterator[None]:
    def made(verdict: Any) -> Any:
        def charge(self: Sync, lease: Lease, claim: Claim, error: PipelineError) -> Any:
            if isinstance(error, Transient) and claim.changes:
                failures = [Failure(i, "outage") for i in claim.memory_ids]
                self.outbox.ack(lease, claim, landed={}, failures=failures, missed=(), recheck=())
            return verdict(self, lease, claim, error)

        return charge

    with instead(Sync, "_verdict", made):
        yield


@bug("S13 a timeout is a failure, and skipped", "an unknown outcome is done again")
def _skipped() -> Iterator[None]:
    def made(write: Any) -> Any:
        def skip(*args: Any, **kwargs: Any) -> list[Failure]:
            try:
                return write(*args, **kwargs)  # type: ignore[no-any-return]
            except ChromaUnavailable:
                return []

        return skip

    with instead(Generations, "write", made):
        yield


@bug("S14 verify compares counts", "verify compares each document")
def _counts() -> Iterator[None]:
    def count(  # noqa: PLR0917 - as the method that it stands for
        self: Verify,
        tenant: TenantId,
        generation: Generation,
        sample: object,
        written_rows: object,
        renew: Callable[[], float],
    ) -> Verified:
        del sample, written_rows
        held = sum(map(len, self.sides.index.pages(generation, renew=renew)))
        memories = self.sides.memories.count(tenant)
        return Verified(tenant, generation.id, documents=held, memories=memories)

    with patch.object(Verify, "_compare", count):
        yield
