"""The registry of tenants and generations, in memory."""

import math
from dataclasses import replace
from uuid import UUID

from memory_pipeline.domain.types import (
    Generation,
    Server,
    TenantId,
)
from memory_pipeline.errors import Fenced
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.registry import AUTOMATIC_REBUILDS_AN_HOUR, RECENT_SECONDS
from memory_pipeline_tests.fakes.world import (
    HOUR_SECONDS,
    NEW_GENERATIONS_LIVE_SECONDS,
    FakeWorld,
)


class FakeRegistry:
    """Tenants and the generations that they search."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def register(self, tenant: TenantId) -> str:
        """Register a tenant unless it is; return its partition key."""
        with self.world.step("registry.register"):
            if tenant not in self.world.tenants:
                self.world.register(tenant)
            return str(tenant)

    def register_pending(self, tenant: TenantId) -> bool:
        """Register a new tenant that has a pending change; tell whether it was registered now."""
        known = tenant in self.world.tenants
        if known or not any(c.tenant == tenant for c in self.world.changes.values()):
            return False
        self.world.register(tenant)
        return True

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant go to now."""
        with self.world.step("registry.live"):
            live = self.world.tenant(tenant).live
            return None if live is None else self.world.generations[live]

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        with self.world.step("registry.building"):
            building = self.world.tenant(tenant).building
            return None if building is None else self.world.generations[building]

    def serves_others(self, server: UUID, tenant: TenantId) -> bool:
        """Whether other tenants of this server were synced recently."""
        with self.world.step("registry.serves_others"):
            return any(
                self.world.generations[f.live].server == server
                and t != tenant
                and f.synced_at > self.world.now - RECENT_SECONDS
                for t, f in self.world.tenants.items()
                if f.live is not None
            )

    def is_being_filled(self, generation: UUID) -> bool:
        """Whether a rebuild under way fills this generation."""
        with self.world.step("registry.is_being_filled"):
            return any(
                part.generation == generation
                and part.state == "running"
                and part.owned_until > self.world.now
                for part in self.world.parts.values()
            )

    def begin_generation(
        self, tenant: TenantId, server: UUID, *, model: str, config_hash: str, memories: int
    ) -> Generation:
        """Record a new generation before its collection exists."""
        del memories  # decides where the next real generation is placed
        with self.world.step("registry.begin_generation"):
            if tenant not in self.world.tenants:
                raise Fenced("the tenant was forgotten")
            generation = Generation(
                self.world.uuid(), tenant, server, None, model, config_hash, "new"
            )
            self.world.generations[generation.id] = generation
            self.world.begun[generation.id] = self.world.now
            return generation

    def flip_first(self, lease: Lease, generation: Generation) -> None:
        """Make a tenant's first generation live; enqueue the reset that fills it. Raises Fenced."""
        with self.world.step("registry.flip_first"):
            self.world.fence(lease)
            tenant = self.world.tenant(lease.tenant)
            if tenant.live is not None or tenant.building is not None:
                raise Fenced("the tenant has a generation by now")
            if self.world.generations[generation.id].state != "new":
                raise Fenced("its server was given up")
            tenant.live = generation.id
            self.world.generations[generation.id] = replace(generation, state="live")
            self.world.enqueue(lease.tenant, None)

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Mark a damaged generation; abandon it if it was building. Raises Fenced."""
        with self.world.step("registry.abandon"):
            self.world.fence(lease)
            tenant = self.world.tenant(lease.tenant)
            if tenant.building == generation:
                tenant.building = None
                if tenant.live is None:  # what was acked stood in it alone
                    self.world.enqueue(lease.tenant, None)
            live = self.world.generations[generation].state == "live"
            self.world.end(generation, "corrupt" if live else "abandoned")

    def servers(self) -> list[Server]:
        """Return the one server."""
        with self.world.step("registry.servers"):
            return [Server(self.world.server, "http://fake", "ready", 0)]

    def damaged(self) -> dict[TenantId, str]:
        """Return the tenants whose collections wait for a rebuild, with their partition keys."""
        with self.world.step("registry.damaged"):
            return {t: str(t) for t in self.world.tenants if self._waits(t)}

    def retire_server(self, server: UUID) -> None:
        """Retire a server whose data is gone: every generation on it is lost."""
        with self.world.step("registry.retire_server"):
            lost = {g.id for g in self.world.generations.values() if g.server == server}
            for generation in lost:
                self.world.end(generation, "lost")
            for name, tenant in self.world.tenants.items():
                if tenant.building in lost:
                    tenant.building = None
                    if tenant.live is None:
                        self.world.enqueue(name, None)

    def droppable(self, *, grace_seconds: float, limit: int) -> list[Generation]:
        """Return ended generations whose collections no process can be using any more."""
        world = self.world
        with world.step("registry.droppable"):
            pointed = {g for t in world.tenants.values() for g in (t.live, t.building)}
            over = [
                g
                for g in world.generations.values()
                if g.id not in world.dropped
                and g.id not in pointed
                and self._is_over(g, grace_seconds)
            ]
            return sorted(over, key=lambda g: world.ended.get(g.id, math.inf))[:limit]

    def dropped(self, generation: UUID) -> None:
        """Record that a generation's collection is gone."""
        with self.world.step("registry.dropped"):
            self.world.dropped.add(generation)

    def _is_over(self, generation: Generation, grace_seconds: float) -> bool:
        world = self.world
        ended = world.ended.get(generation.id)
        if ended is not None:
            return ended <= world.now - grace_seconds
        began = world.begun.get(generation.id, world.now)
        return generation.state == "new" and began <= world.now - NEW_GENERATIONS_LIVE_SECONDS

    def _waits(self, tenant: TenantId) -> bool:
        world = self.world
        live, building = world.tenants[tenant].live, world.tenants[tenant].building
        if building is None if live is None else world.generations[live].state == "live":
            return False
        under_way = any(
            whose == tenant and part.state == "running" and part.owned_until > world.now
            for (_, whose), part in world.parts.items()
        )
        lately = [
            g
            for g, when in world.ended.items()
            if world.generations[g].tenant == tenant
            and world.generations[g].state == "corrupt"
            and when > world.now - HOUR_SECONDS
        ]
        return not under_way and len(lately) <= AUTOMATIC_REBUILDS_AN_HOUR
