"""The outbox and its leases, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_pipeline.domain.changes import Change, Claim, ExpectedDifferences
from memory_pipeline.domain.dead_letters import Cause
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
    ProvenanceUpdate,
    TenantId,
    Token,
)
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.outbox import MISSED_PAUSE_SECONDS
from memory_pipeline_tests.fakes.world import SAFETY_SECONDS, FakeChange, FakeFailure, FakeWorld


@dataclass(frozen=True, slots=True)
class FakeLease:
    """A lease as its holder sees it."""

    world: FakeWorld
    tenant: TenantId
    token: Token
    retries: int = 0

    def renew(self) -> float:
        """Renew; return the seconds that the next call may take. Raises Fenced."""
        with self.world.step("lease.renew"):
            self.world.fence(self)
            settings = self.world.settings
            self.world.tenant(self.tenant).lease_until = self.world.now + settings.lease_seconds
        return min(settings.request_seconds, settings.lease_seconds - SAFETY_SECONDS)


class FakeOutbox:
    """The outbox and the leases."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def pending_tenants(self, *, paused: bool = False) -> list[TenantId]:
        """Return the tenants with changes to claim, oldest first; fan TRUNCATEs out on the way."""
        world = self.world
        with world.step("outbox.pending_tenants"):
            if world.truncations:
                world.truncations = 0
                for tenant in world.tenants:
                    world.enqueue(tenant, None)
            oldest = {
                tenant: claimable[0].seq
                for tenant in {c.tenant for c in world.changes.values()}
                if (claimable := [c for c in world.claimable(tenant) if not world.in_hand(c)])
            }
            return [
                tenant
                for tenant in sorted(oldest, key=lambda t: oldest[t])
                if paused or world.tenant(tenant).retry_at <= world.now
            ]

    def pending(self, tenant: TenantId) -> int:
        """Count the tenant's changes, due or not."""
        with self.world.step("outbox.pending"):
            return sum(c.tenant == tenant for c in self.world.changes.values())

    def expected_differences(
        self, tenant: TenantId, memory_ids: Sequence[MemoryId]
    ) -> ExpectedDifferences:
        """Return for which of these memories a document may differ, and why."""
        world = self.world
        with world.step("outbox.expected_differences"):
            building = world.tenant(tenant).building
            waiting = {
                c.memory_id
                for c in world.changes.values()
                if c.tenant == tenant
                and (c.claim_token or c.covered_by is None or c.covered_by != building)
            }
            buried = {i for (t, i), f in world.failures.items() if t == tenant and f.buried}
            return ExpectedDifferences(
                frozenset(i for i in waiting if i is not None).intersection(memory_ids),
                frozenset(buried).intersection(memory_ids),
                None in waiting or bool(world.truncations),
            )

    def acquire_lease(self, tenant: TenantId) -> FakeLease | None:
        """Take the tenant's lease with a new token; None while another worker holds it."""
        world = self.world
        with world.step("outbox.acquire_lease"):
            known = world.tenants.get(tenant)
            if known is None or known.lease_until > world.now:
                return None
            known.token += 1
            known.lease_until = world.now + world.settings.lease_seconds
            return FakeLease(world, tenant, Token(known.token), known.retries)

    def claim(self, lease: Lease) -> Claim:
        """Claim the oldest due changes; schedule confirms of changes that were claimed before."""
        world = self.world
        with world.step("outbox.claim"):
            world.fence(lease)
            due = world.claimable(lease.tenant)[: world.settings.batch_size]
            recheck = {c.memory_id for c in due if c.claim_token and c.memory_id is not None}
            for change in due:
                change.claim_token = lease.token
            for memory_id in sorted(recheck):
                self._confirm(lease.tenant, memory_id)
            tenant = world.tenant(lease.tenant)
            pointed = [world.generations[g] for g in (tenant.live, tenant.building) if g]
            return Claim(
                tuple(
                    Change(
                        c.seq, c.memory_id, recheck=c.recheck, waited_seconds=world.now - c.since
                    )
                    for c in due
                ),
                tuple(g for g in pointed if g.id == tenant.building or g.state == "live"),
                full=len(due) == world.settings.batch_size,
            )

    def ack(
        self,
        lease: Lease,
        claim: Claim,
        *,
        landed: dict[MemoryId, ProvenanceUpdate | None],
        failures: Sequence[Failure],
        missed: Sequence[MemoryId],
        recheck: Sequence[MemoryId],
    ) -> int:
        """Delete what landed, charge failures, unclaim what was missed, enqueue ``recheck``."""
        world = self.world
        with world.step("outbox.ack"):
            world.fence(lease)
            once = {f.memory_id: f for f in failures}  # and not once a target
            cause = _cause(claim.targets) if failures else ""
            buried = {i for i, f in once.items() if self._charge(lease.tenant, f, cause)}
            for memory_id in sorted(set(recheck)):
                world.enqueue(lease.tenant, memory_id, recheck=True)
            for change in self._claimed(lease, claim):
                if change.memory_id is None or change.memory_id in {*landed, *buried}:
                    del world.changes[change.seq]
            retried = {f.memory_id for f in failures} - buried
            self._give_back(lease, claim, set(missed), MISSED_PAUSE_SECONDS)
            self._give_back(lease, claim, retried, world.settings.retry_seconds)
            for memory_id, update in landed.items():
                world.failures.pop((lease.tenant, memory_id), None)
                if update is not None:
                    world.note_provenance({memory_id: update})
                elif memory_id not in world.rows:
                    world.provenance.pop(memory_id, None)
                    world.vectors.pop(memory_id, None)
            if claim.resets:
                world.forget_failures_of_gone(lease.tenant)
            return len(buried)

    def newest_seq(self, tenant: TenantId) -> int:
        """Return the number of the tenant's newest change; 0 where it has none."""
        with self.world.step("outbox.newest_seq"):
            mine = [c.seq for c in self.world.changes.values() if c.tenant == tenant]
            return max(mine, default=0)

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Whether the tenant has a change that could be claimed now."""
        with self.world.step("outbox.has_due_changes"):
            return tenant in self.world.tenants and bool(self.world.claimable(tenant))

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Enqueue a recheck of memories, as if they had changed."""
        with self.world.step("outbox.enqueue"):
            if tenant not in self.world.tenants:
                return  # it was forgotten
            for memory_id in sorted(set(memory_ids)):
                self.world.enqueue(tenant, memory_id, recheck=True)

    def unclaim(self, lease: Lease, claim: Claim) -> None:
        """Unclaim changes for which nothing was sent."""
        with self.world.step("outbox.unclaim"):
            self._give_back(lease, claim, {c.memory_id for c in claim.changes}, 0.0)

    def release_lease(self, lease: Lease, *, error: str | None = None) -> None:
        """Release the lease; after an error, with a pause that grows. Harmless when lost."""
        world = self.world
        with world.step("outbox.release_lease"):
            tenant = world.tenant(lease.tenant)
            if tenant.token != lease.token:
                return
            tenant.lease_until, tenant.last_error = 0.0, error
            if error is None:
                tenant.retry_at, tenant.retries = 0.0, 0
                tenant.synced_at = world.now
            else:
                pause_seconds = world.settings.retry_seconds * 2.0 ** min(tenant.retries, 16)
                tenant.retry_at = world.now + min(world.settings.retry_max_seconds, pause_seconds)
                tenant.retries += 1

    def _confirm(self, tenant: TenantId, memory_id: MemoryId) -> None:
        world = self.world
        known = [
            c
            for c in world.changes.values()
            if c.confirm and (c.tenant, c.memory_id) == (tenant, memory_id)
        ]
        seq = known[0].seq if known else world.number()
        wait_seconds = world.settings.request_seconds + world.settings.grace_seconds
        world.changes[seq] = FakeChange(
            seq, tenant, memory_id, not_before=world.now + wait_seconds, confirm=True
        )

    def _charge(self, tenant: TenantId, failure: Failure, cause: str) -> bool:
        key = (tenant, failure.memory_id)
        known = self.world.failures.get(key) or FakeFailure(0, failure.reason)
        same = known.content_hash == failure.content_hash
        tried = known.tried_under if same else ()
        attempts = known.attempts + 1
        buried = attempts >= self.world.settings.max_attempts
        self.world.failures[key] = FakeFailure(
            attempts,
            failure.reason,
            buried,
            failure.content_hash,
            cause,
            tried if cause in tried else (*tried, cause),
            waived=known.waived and same,
        )
        return buried

    def _claimed(self, lease: Lease, claim: Claim) -> list[FakeChange]:
        changes = [self.world.changes.get(c.seq) for c in claim.changes]
        return [c for c in changes if c is not None and c.claim_token == lease.token]

    def _give_back(
        self,
        lease: Lease,
        claim: Claim,
        ids: set[MemoryId] | set[MemoryId | None],
        pause_seconds: float,
    ) -> None:
        for change in self._claimed(lease, claim):
            if change.memory_id in ids:
                change.claim_token = None
                change.not_before = self.world.now + pause_seconds if pause_seconds else 0.0


def _cause(targets: Sequence[Generation]) -> str:
    first = [(g.model, g.config_hash) for g in targets[:1]] or [("", "")]
    return Cause.of_now(*first[0]).word
