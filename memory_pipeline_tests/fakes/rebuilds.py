"""The parts of rebuilds, in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    MemoryId,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.errors import Fenced
from memory_pipeline.ports import Lease
from memory_pipeline_tests.fakes.world import FakePart, FakeWorld


class FakeRebuilds:
    """The parts of rebuilds, one a tenant, each with one owner that renews its ownership."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    @property
    def redo_seconds(self) -> float:
        """How long a chunk waits that may have been written, before it is written again."""
        settings = self.world.settings
        return max(settings.lease_seconds, settings.request_seconds + settings.grace_seconds)

    def request(self, rebuild: RebuildId, tenants: Sequence[TenantId], *, re_embed: bool) -> None:
        """Record the tenants of a rebuild; its parts so far stay as they are."""
        with self.world.step("rebuilds.request"):
            for tenant in tenants:
                if tenant not in self.world.tenants:
                    continue  # it was forgotten
                self.world.parts.setdefault((rebuild, tenant), FakePart(re_embed))

    def acquire_part(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a tenant's part; None where it is done or has another owner."""
        world = self.world
        with world.step("rebuilds.acquire_part"):
            part = world.parts.get((rebuild, tenant))
            others = [
                p for (i, whose), p in world.parts.items() if whose == tenant and i != rebuild
            ]
            for dead in others:
                if dead.state == "running" and dead.owned_until <= world.now:
                    dead.state, dead.error = "failed", "its process ended"
            if part is None or part.state == "done":
                return None
            if part.state == "running" and part.owned_until > world.now:
                return None
            if any(p.state == "running" for p in others):
                return None
            part.state, part.owner, part.error = "running", world.uuid().hex, None
            part.owned_until = world.now + self.redo_seconds
            return RebuildPart(rebuild, tenant, part.owner, part.re_embed)

    def part_state(self, rebuild: RebuildId, tenant: TenantId) -> str | None:
        """Return the state of a part: waiting, running, done or failed."""
        with self.world.step("rebuilds.part_state"):
            part = self.world.parts.get((rebuild, tenant))
            return None if part is None else part.state

    def renew_part(self, part: RebuildPart) -> None:
        """Renew the ownership. Raises Fenced where another owner has it by now."""
        with self.world.step("rebuilds.renew_part"):
            self._mine(part).owned_until = self.world.now + self.redo_seconds

    def checkpoint(self, generation: Generation) -> Checkpoint:
        """Return how far a building generation was filled."""
        with self.world.step("rebuilds.checkpoint"):
            filled = [
                part
                for (_, tenant), part in self.world.parts.items()
                if tenant == generation.tenant and part.generation == generation.id
            ]
            if not filled:
                return Checkpoint()
            through = [part.through for part in filled if part.through is not None]
            anew = all(part.re_embed for part in filled)
            return Checkpoint(max(through, default=None), anew)

    def resume_part(
        self, part: RebuildPart, generation: Generation, checkpoint: Checkpoint
    ) -> None:
        """Resume a generation at its checkpoint. Raises Fenced."""
        with self.world.step("rebuilds.resume_part"):
            row = self._mine(part)
            row.generation, row.through = generation.id, checkpoint.through

    def register_building(self, part: RebuildPart, lease: Lease, generation: Generation) -> None:
        """Make a generation the tenant's building one. Raises Fenced."""
        world = self.world
        with world.step("rebuilds.register_building"):
            world.fence(lease)
            row = self._mine(part)
            tenant = world.tenant(part.tenant)
            if tenant.building is not None:
                raise Fenced("another generation is building")
            if world.generations[generation.id].state != "new":
                raise Fenced("its server was given up")
            tenant.building = generation.id
            world.generations[generation.id] = replace(generation, state="building")
            row.generation, row.through = generation.id, None
            if tenant.live is not None and world.generations[tenant.live].state == "live":
                return
            for change in world.changes.values():
                if change.tenant == part.tenant and not (change.claim_token or change.confirm):
                    change.covered_by = generation.id

    def may_fill(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        """Whether this generation is still the one to fill, by this owner, under this lease."""
        with self.world.step("rebuilds.may_fill"):
            return self._fills(part, lease, generation)

    def record_chunk(
        self,
        part: RebuildPart,
        lease: Lease,
        generation: Generation,
        *,
        through: MemoryId,
        provenance: Mapping[MemoryId, ProvenanceUpdate],
        recheck: Sequence[MemoryId],
        landed: Sequence[MemoryId],
        embedded: int,
    ) -> None:
        """Record a chunk as done, enqueue ``recheck``, release the lease. Raises Fenced."""
        world = self.world
        with world.step("rebuilds.record_chunk"):
            row = self._filled(part, lease, generation)
            for memory_id in sorted(set(recheck)):
                world.enqueue(part.tenant, memory_id)
            world.note_provenance(provenance)
            world.tenant(part.tenant).lease_until = 0.0
            row.through = through
            row.reused += len(landed) - embedded
            row.embedded += embedded
            for key in [(part.tenant, i) for i in landed if (part.tenant, i) in world.failures]:
                failure = world.failures[key]
                failure.attempts *= not failure.buried
                failure.buried = False
                world.enqueue(*key, recheck=True)
            row.owned_until = world.now + self.redo_seconds

    def flip(
        self, part: RebuildPart, lease: Lease, generation: Generation, *, memories: int
    ) -> None:
        """Let searches go to the building generation; retire the old one. Raises Fenced."""
        del memories  # decides where the next real generation is placed
        world = self.world
        with world.step("rebuilds.flip"):
            row = self._filled(part, lease, generation)
            tenant = world.tenant(part.tenant)
            if tenant.live is not None:
                state = world.generations[tenant.live].state
                world.end(tenant.live, "retired" if state == "live" else state)
            tenant.live, tenant.building = generation.id, None
            tenant.lease_until, tenant.last_error = 0.0, None
            tenant.retry_at, tenant.retries = 0.0, 0
            found = world.generations[generation.id]
            world.generations[generation.id] = replace(found, state="live")
            for change in list(world.changes.values()):
                if change.covered_by == generation.id and change.claim_token is None:
                    del world.changes[change.seq]
            row.state = "done"
            world.forget_failures_of_gone(part.tenant)

    def return_lease(self, lease: Lease) -> None:
        """Release a lease under which no sync took place. Harmless when it is lost."""
        with self.world.step("rebuilds.return_lease"):
            tenant = self.world.tenant(lease.tenant)
            if tenant.token == lease.token:
                tenant.lease_until = 0.0

    def release_part(self, part: RebuildPart) -> None:
        """Release a part to the next owner; do nothing where another owner has it."""
        with self.world.step("rebuilds.release_part"):
            row = self._part(part)
            if row is not None:
                row.state, row.owner, row.owned_until = "waiting", None, 0.0

    def fail_part(self, part: RebuildPart, error: str) -> None:
        """Close a part as failed; do nothing where another owner has it."""
        with self.world.step("rebuilds.fail_part"):
            row = self._part(part)
            if row is not None:
                row.state, row.error = "failed", error

    def _part(self, part: RebuildPart) -> FakePart | None:
        row = self.world.parts.get((part.rebuild, part.tenant))
        return row if row and (row.owner, row.state) == (part.owner, "running") else None

    def _mine(self, part: RebuildPart) -> FakePart:
        row = self._part(part)
        if row is None:
            raise Fenced("this part of the rebuild is no longer ours")
        return row

    def _fills(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        return (
            self.world.holds(lease)
            and self.world.tenant(part.tenant).building == generation.id
            and self._part(part) is not None
        )

    def _filled(self, part: RebuildPart, lease: Lease, generation: Generation) -> FakePart:
        if not self._fills(part, lease, generation):
            raise Fenced("the lease, or this part of the rebuild, is no longer ours")
        return self._mine(part)
