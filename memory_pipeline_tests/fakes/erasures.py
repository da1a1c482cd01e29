"""Forgetting a tenant, and tenants without memories, in memory."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from memory_pipeline.domain.erasure import PendingErasure, Traces
from memory_pipeline.domain.types import Generation, MemoryId, TenantId
from memory_pipeline.ports import Lease
from memory_pipeline_tests.fakes.world import FakeErasure, FakeWorld


class FakeErasures:
    """The unfinished erasures, and what the world has of a tenant."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def request(self, tenant: TenantId) -> None:
        """Record that a tenant is to be forgotten."""
        with self.world.step("erasures.request"):
            self.world.erasures[tenant] = FakeErasure(tried_at=self.world.now)

    def delete_memories(self, tenant: TenantId, ids: Sequence[MemoryId]) -> int:
        """Delete these memories of a tenant, one statement."""
        world = self.world
        with world.step("erasures.delete_memories"):
            mine = [i for i in ids if i in world.rows and world.rows[i].tenant == tenant]
            for memory_id in mine:
                world.delete(memory_id)
            return len(mine)

    def fence(self, lease: Lease) -> None:
        """Take the tenant out of the registry under the lease. Raises Fenced."""
        world, tenant = self.world, lease.tenant
        with world.step("erasures.fence"):
            world.fence(lease)
            mine = [g for g in world.generations.values() if g.tenant == tenant]
            creating = any(g.state == "new" and g.id not in world.dropped for g in mine)
            del world.tenants[tenant]
            for generation in mine:
                if generation.id in world.dropped:
                    continue
                world.erased.add(generation.id)
                if generation.id not in world.ended:
                    world.end(
                        generation.id,
                        "retired"
                        if generation.state in {"live", "building", "corrupt"}
                        else "abandoned",
                    )
            for part in [key for key in world.parts if key[1] == tenant]:
                del world.parts[part]
            for failure in [key for key in world.failures if key[0] == tenant]:
                del world.failures[failure]
            self.forget_changes(tenant)
            wait = world.settings.request_seconds + world.settings.grace_seconds
            if tenant in world.erasures:
                world.erasures[tenant] = FakeErasure(
                    fenced=True, settles_at=world.now + wait * creating, tried_at=world.now
                )

    def forget_changes(self, tenant: TenantId) -> None:
        """Delete a tenant's changes; a memory that stands gets a reset in place of its own."""
        world = self.world
        for change in [c for c in world.changes.values() if c.tenant == tenant]:
            del world.changes[change.seq]
        if any(row.tenant == tenant for row in world.rows.values()):
            world.enqueue(tenant, None)

    def forget_orphaned_provenance(self) -> None:
        """Delete the vectors, and the provenance, of memories that are gone."""
        world = self.world
        with world.step("erasures.forget_orphaned_provenance"):
            for kept in (world.provenance, world.vectors):
                for memory_id in kept.keys() - world.rows.keys():
                    del kept[memory_id]

    def generations(self, tenant: TenantId) -> list[Generation]:
        """Return the forgotten generations whose collections may exist."""
        world = self.world
        with world.step("erasures.generations"):
            return [
                g
                for g in world.generations.values()
                if g.tenant == tenant and g.id in world.erased and g.id not in world.dropped
            ]

    def erased(self, tenant: TenantId, generation: UUID | None = None) -> None:
        """Delete a forgotten generation, and those that are dropped."""
        world = self.world
        with world.step("erasures.erased"):
            for known in list(world.generations.values()):
                gone = known.id == generation or known.id in world.dropped
                if known.tenant == tenant and known.id in world.erased and gone:
                    world.erased.discard(known.id)
                    world.dropped.add(known.id)
                    world.deleted.add(known.id)

    def pending(
        self, tenant: TenantId | None = None, *, idle_seconds: float = 0.0
    ) -> list[PendingErasure]:
        """Return the unfinished erasures that were not tried for so long."""
        world = self.world
        with world.step("erasures.pending"):
            return [
                PendingErasure(
                    whose,
                    datetime.now(UTC),
                    erasure.fenced,
                    max(0.0, erasure.settles_at - world.now),
                    0
                    if erasure.fenced
                    else sum(row.tenant == whose for row in world.rows.values()),
                    erasure.waits_for,
                )
                for whose, erasure in world.erasures.items()
                if tenant in {None, whose} and erasure.tried_at <= world.now - idle_seconds
            ]

    def postpone(self, tenant: TenantId, reason: str) -> None:
        """Record why an erasure is not finished."""
        with self.world.step("erasures.postpone"):
            if tenant in self.world.erasures:
                self.world.erasures[tenant].waits_for = reason
                self.world.erasures[tenant].tried_at = self.world.now

    def complete(self, tenant: TenantId) -> bool:
        """End an erasure of which no collection is left."""
        world = self.world
        with world.step("erasures.complete"):
            erasure = world.erasures.get(tenant)
            left = any(world.generations[g].tenant == tenant for g in world.erased)
            if erasure is None or not erasure.fenced or erasure.settles_at > world.now or left:
                return False
            del world.erasures[tenant]
            return True

    def traces(self, tenant: TenantId) -> Traces:
        """Count what is left of a tenant."""
        world = self.world
        with world.step("erasures.traces"):
            return Traces(
                memories=sum(row.tenant == tenant for row in world.rows.values()),
                changes=sum(c.tenant == tenant for c in world.changes.values()),
                failures=sum(whose == tenant for whose, _ in world.failures),
                provenance=len(world.provenance.keys() - world.rows.keys()),
                vectors=len(world.vectors.keys() - world.rows.keys()),
                external_ids=0,
                generations=sum(world.generations[g].tenant == tenant for g in world.erased),
                rebuilds=sum(whose == tenant for _, whose in world.parts),
                verifications=0,
                freshness=0,
                registrations=int(tenant in world.tenants),
                erasures=int(tenant in world.erasures),
            )

    # ---- the generations that the registry knows

    def unknown(self, generations: Sequence[UUID]) -> list[UUID]:
        """Return those of these that are not registered."""
        with self.world.step("erasures.unknown"):
            known = self.world.generations.keys() - self.world.deleted
            return [g for g in generations if g not in known]

    # ---- tenants without memories

    def empty_tenants(self, *, seconds: float, limit: int) -> list[TenantId]:
        """Return tenants that keep a collection and have had no memory for so long."""
        world = self.world
        with world.step("erasures.empty_tenants"):
            return [
                tenant
                for tenant, known in world.tenants.items()
                if self._is_empty(tenant) and known.synced_at <= world.now - seconds
            ][:limit]

    def retire_empty(self, lease: Lease) -> bool:
        """Retire the collection of a tenant that is still empty; whether it was."""
        world = self.world
        with world.step("erasures.retire_empty"):
            if not world.holds(lease) or not self._is_empty(lease.tenant):
                return False
            tenant = world.tenant(lease.tenant)
            assert tenant.live is not None
            world.end(tenant.live, "retired")
            tenant.live = None
            return True

    def return_lease(self, lease: Lease) -> None:
        """Release a lease under which no sync took place."""
        with self.world.step("erasures.return_lease"):
            tenant = self.world.tenant(lease.tenant)
            if tenant.token == lease.token:
                tenant.lease_until = 0.0

    def is_quiet(self, tenant: TenantId) -> bool:
        """Whether nothing of a tenant is pending, failed or being rebuilt."""
        world = self.world
        return not (
            world.truncations
            or any(c.tenant == tenant for c in world.changes.values())
            or any(whose == tenant for whose, _ in world.failures)
            or any(
                whose == tenant and part.state in {"waiting", "running"}
                for (_, whose), part in world.parts.items()
            )
        )

    def _is_empty(self, tenant: TenantId) -> bool:
        world = self.world
        known = world.tenant(tenant)
        if known.live is None or known.building is not None:
            return False
        if world.generations[known.live].state != "live" or not self.is_quiet(tenant):
            return False
        return not any(row.tenant == tenant for row in world.rows.values())
