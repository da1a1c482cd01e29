"""The generations that a tenant's batches write: begin the first, prime, write, abandon.

A building generation that fails is abandoned; the live one never waits for it.
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
from memory_pipeline.ports import Lease, RenewLease
from memory_pipeline.sync.comparison import find_differing, find_strays
from memory_pipeline.sync.plan import EmbeddedDraft
from memory_pipeline.sync.ports import Collections, Memories, Registry
from memory_pipeline.sync.write import write_documents

log = get_logger("memory_pipeline.sync.generations")

# One at a time: tenants placed at the same moment would all get the emptiest server.
PLACING: AbstractContextManager[object] = threading.Lock()


@dataclass(frozen=True, slots=True)
class Generations:
    """The generations of tenants as the holder of their leases sees them."""

    registry: Registry
    memories: Memories
    index: Collections
    recipe: Recipe
    model: str
    placing: AbstractContextManager[object] = PLACING

    def prepare(self, lease: Lease) -> None:
        """Prime the generations to write; begin the first generation of a new tenant.

        Raises:
            Corrupt: the live generation is damaged, and no rebuild fills another one yet.
            ConfigurationChanged: a generation was built with other settings.
            ChromaUnavailable, Fenced, PostgresUnavailable: as the ports raise them.

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
            with self._isolated(lease, building):
                self.check(building)
                self.index.prime(building, renew=lease.renew)
        except ConfigurationChanged as other:
            # A running rebuild to other settings continues; only an interrupted one is abandoned.
            if self.registry.is_being_filled(building.id):
                raise
            self._abandon(lease, building, other)

    def check(self, generation: Generation) -> None:
        """Refuse to mix models or recipes in one collection. Raises ConfigurationChanged."""
        for what, built, now in (
            ("model", generation.model, self.model),
            ("fields and document settings", generation.config_hash, self.recipe.config_hash),
        ):
            if built != now:
                raise ConfigurationChanged(
                    f"the collection was built with another {what} ({built}) than the settings "
                    f"or this version name now ({now}): set them back, or rebuild the tenant "
                    "(`memory-pipeline rebuild`)"
                )

    def write(
        self,
        lease: Lease,
        targets: Sequence[Generation],
        ready: Sequence[EmbeddedDraft],
        deletes: Sequence[MemoryId],
    ) -> list[Failure]:
        """Write the live generation, then the building one; return the refused memories.

        Raises:
            ChromaUnavailable: no generation is left to write to; the changes wait for a new one.
            Corrupt, Fenced, PostgresUnavailable: for the live generation, as the ports raise them.

        """
        failures: list[Failure] = []
        written = 0
        for generation in targets:
            with self._isolated(lease, generation):
                failures += write_documents(
                    self.index, generation, ready, deletes, renew=lease.renew
                )
                written += 1
        if not written:
            raise ChromaUnavailable("the tenant has no collection that can be written", sent=False)
        return failures

    def unreachable_documents(self, lease: Lease) -> list[MemoryId]:
        """Return the documents of the live collection that no search finds."""
        live = self.registry.live(lease.tenant)
        if live is None or live.state != "live":
            return []
        return self.index.unreachable(live, renew=lease.renew)

    def differing(self, lease: Lease, generation: Generation) -> list[MemoryId]:
        """Return the memories that a reset has to recheck in this generation.

        For a generation under construction, only documents whose memory was deleted: it may already
        be verified, so nothing else would remove them. Missing documents arrive with their chunk or
        have a pending change. A building generation that cannot be read is abandoned.
        """
        if generation.state == "live":
            return find_differing(self.index, self.memories, generation, self.recipe, lease=lease)
        with self._isolated(lease, generation):
            return find_strays(self.index, self.memories, generation, lease=lease)
        return []

    def begin(self, tenant: TenantId, *, renew: RenewLease) -> Generation:
        """Record a new generation and create its collection; no search and no batch uses it yet."""
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
        self.registry.flip_first(lease, generation)
        return replace(generation, state="live")

    @contextmanager
    def _isolated(self, lease: Lease, generation: Generation) -> Iterator[None]:
        """Abandon the generation if the block fails with it; raise if it is the live one."""
        try:
            yield
        except PostgresUnavailable:
            raise
        except (Corrupt, Transient) as error:
            self._abandon(lease, generation, error)

    def _abandon(self, lease: Lease, generation: Generation, error: PipelineError) -> None:
        """Abandon a building generation; raise the error for any other."""
        if generation.state != "building":
            raise error
        self.registry.abandon(lease, generation.id)
        log.warning(
            "building_generation_abandoned",
            tenant=lease.tenant,
            generation=str(generation.id),
            token=lease.token,
            reason=str(error),
            next="changes go to the live generation if it is sound, else they wait for a rebuild",
        )
