"""Rebuild many tenants: several at once on every Chroma server, the largest first."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from uuid import uuid4

from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import RebuildId, TenantId
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.rebuild.ports import RebuildRequests, Servers, Sizes, Tenants
from memory_pipeline.rebuild.tenant import Rebuild

# A server applies writes one at a time: while it applies one tenant's, the next tenant's are sent,
# and a third tenant is verified. More tenants only delay the small writes of others.
TENANTS_AT_ONCE_A_SERVER = 2
VERIFIED_AT_ONCE = 1


@dataclass(frozen=True, slots=True)
class RebuildAll:
    """Rebuilds a list of tenants. Several may run at once; each tenant's part has one owner."""

    rebuild: Rebuild
    rebuilds: RebuildRequests
    registry: Tenants
    memories: Sizes
    index: Servers
    grace_seconds: float

    def alone(self, tenant: TenantId) -> Rebuilt:
        """Rebuild one tenant whose collection is damaged. Raises as ``run`` does."""
        (rebuilt,) = self.run(RebuildId(f"auto-{uuid4().hex[:12]}"), [tenant])
        return rebuilt

    def run(
        self,
        rebuild: RebuildId,
        tenants: Sequence[TenantId],
        *,
        re_embed: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Generator[Rebuilt]:
        """Rebuild these tenants; yield each as it ends. Closing the iterator stops the others.

        Args:
            rebuild: the name of the rebuild: an interrupted one continues under its name.
            tenants: the tenants; those that this rebuild has done before are skipped.
            re_embed: compute every vector again.
            progress: called with the number of documents of each chunk, from several threads.

        Raises:
            PostgresUnavailable, ChromaUnavailable: nothing more can be done.

        """
        workers = TENANTS_AT_ONCE_A_SERVER * len(self.index.servers()) + VERIFIED_AT_ONCE
        registered, sizes = self.registry.keys(), self.memories.sizes()
        for tenant in tenants:
            # Without memories it was forgotten since it was named.
            if tenant not in registered and sizes.get(tenant):
                self.registry.register(tenant)
        self.rebuilds.request(rebuild, tenants, re_embed=re_embed)
        largest_first = sorted(tenants, key=lambda t: -sizes.get(t, 0))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="rebuild")
        try:
            running = [
                pool.submit(self.rebuild.run, rebuild, tenant, progress=progress)
                for tenant in largest_first
            ]
            for ended in as_completed(running):
                yield ended.result()
                drop_retired(self.registry, self.index, grace_seconds=self.grace_seconds)
        finally:
            self.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Stop every tenant at its next step; finished chunks stay recorded."""
        self.rebuild.ownership.stop.set()
