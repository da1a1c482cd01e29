"""Which generations a tenant's batches write: begin the first, prime, write, give up.

A building generation that fails is given up, and it alone: live never waits for it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from memory_pipeline.content.document import Recipe
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Generation, MemoryId, TenantId
from memory_pipeline.errors import (
    ChromaUnavailable,
    ConfigurationChanged,
    Corrupt,
    PipelineError,
    PostgresUnavailable,
    Transient,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.ports import Index, Lease, Memories, Registry, RenewLease
from memory_pipeline.sync.batch import find_differing, find_strays, write_documents
from memory_pipeline.sync.plan import EmbeddedDraft

log = get_logger("memory_pipeline.sync.generations")

# Tenants that are placed at the same moment would all go to the server that holds least.
PLACING: AbstractContextManager[object] = threading.Lock()


@dataclass(frozen=True, slots=True)
class Generations:
    """The generations of tenants as the holder of their leases sees them."""

    registry: Registry
    memories: Memories
    index: Index
    recipe: Recipe
    model: str
    placing: AbstractContextManager[object] = PLACING

    def prepare(self, lease: Lease) -> None:
        """Prime what will be written; begin the first generation of a tenant that has none.

        Raises:
            Corrupt: the live generation is damaged, and nothing is built in its place yet.
            ConfigurationChanged: the live generation was built with other settings.

        """
        live = self.registry.live(lease.tenant)
        building = self.registry.building(lease.tenant)
        if live is None and building is None:
            live = self._begin_first(lease)
        if live is not None and live.state == "live":
            self.check(live)
            self.index.prime(live, renew=lease.renew)
        elif live is not None and building is None:
            raise Corrupt(f"the collection is {live.state}", generation=live.id)
        if building is not None:
            self._prepare_building(lease, building)

    def _prepare_building(self, lease: Lease, building: Generation) -> None:
        try:
            with self._alone(lease, building):
                self.check(building)
                self.index.prime(building, renew=lease.renew)
        except ConfigurationChanged as other:
            # A rebuild under way to other settings is not ours to stop; one that was left is.
            if self.registry.is_being_filled(building.id):
                raise
            self._give_up(lease, building, other)

    def check(self, generation: Generation) -> None:
        """Refuse to mix models or recipes in one collection."""
        for what, built, now in (
            ("model", generation.model, self.model),
            ("fields and document settings", generation.config_hash, self.recipe.config_hash),
        ):
            if built != now:
                raise ConfigurationChanged(
                    f"the collection was built with another {what} ({built}) than the settings "
                    f"name now ({now}): set them back, or rebuild the tenant"
                )

    def write(
        self,
        lease: Lease,
        targets: Sequence[Generation],
        ready: Sequence[EmbeddedDraft],
        deletes: Sequence[MemoryId],
    ) -> list[Failure]:
        """Write live, then building, whose troubles are its own; return what was refused.

        Raises:
            ChromaUnavailable: nothing is left to write to; the changes wait for another.
            Corrupt, Fenced, PostgresUnavailable: as they come, for live.

        """
        failures: list[Failure] = []
        written = 0
        for generation in targets:
            with self._alone(lease, generation):
                failures += write_documents(
                    self.index, generation, ready, deletes, renew=lease.renew
                )
                written += 1
        if not written:
            raise ChromaUnavailable("the tenant has no collection that can be written", sent=False)
        return failures

    def unreachable_documents(self, lease: Lease) -> list[MemoryId]:
        """Return documents of the live collection that no search finds any more."""
        live = self.registry.live(lease.tenant)
        if live is None or live.state != "live":
            return []
        return self.index.unreachable(live, renew=lease.renew)

    def differing(self, lease: Lease, generation: Generation) -> list[MemoryId]:
        """Tell what a reset has to have looked at again.

        Of what a rebuild fills, only what went: it may have been verified by now, and the rest of
        it comes with its chunks or has changes of its own. One that cannot be read is given up.
        """
        if generation.state == "live":
            return find_differing(self.index, self.memories, generation, self.recipe, lease=lease)
        with self._alone(lease, generation):
            return find_strays(self.index, self.memories, generation, lease=lease)
        return []

    def begin(self, tenant: TenantId, *, renew: RenewLease) -> Generation:
        """Note a new generation and create its collection; nobody points to it yet."""
        memories = self.memories.count(tenant)
        with self.placing:
            begun = self.registry.begin_generation(
                tenant,
                self.index.choose_server(),
                model=self.model,
                config_hash=self.recipe.config_hash,
                memories=memories,
            )
        return self.index.create(begun, memories=memories, renew=renew)

    def _begin_first(self, lease: Lease) -> Generation:
        generation = self.begin(lease.tenant, renew=lease.renew)
        self.registry.go_live(lease, generation)
        return replace(generation, state="live")

    @contextmanager
    def _alone(self, lease: Lease, generation: Generation) -> Iterator[None]:
        """Give a generation up by which the block fails; raise it where that one is live."""
        try:
            yield
        except PostgresUnavailable:
            raise
        except (Corrupt, Transient) as broken:
            self._give_up(lease, generation, broken)

    def _give_up(self, lease: Lease, generation: Generation, error: PipelineError) -> None:
        if generation.state != "building":
            raise error
        self.registry.abandon(lease, generation.id)
        log.warning("building_given_up", token=lease.token, reason=str(error))
