"""Drain the outbox: every tenant with changes, oldest first, until none is left.

A tenant whose collection is damaged or lost is rebuilt on the way, it alone. A server that takes no
writes is tried by one tenant; the others of that server wait.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from uuid import UUID

from memory_pipeline.domain.outcomes import Outcome, Rebuilt
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.sync.tenant import Sync


@dataclass(frozen=True, slots=True)
class Drain:
    """Runs the heart over tenants. Whoever else syncs at the same time is kept apart by leases."""

    outbox: PostgresOutbox
    registry: PostgresRegistry
    sync: Sync
    rebuild: Callable[[TenantId], Rebuilt]
    takes_writes: Callable[[UUID], bool]

    def run(
        self,
        *,
        only: Collection[TenantId] | None = None,
        paused: bool = False,
        progress: Callable[[Outcome], None] = lambda _: None,
    ) -> Iterator[Outcome]:
        """Sync until nothing can be claimed but what was tried in vain; yield after each tenant.

        Args:
            only: these tenants and no others.
            paused: include tenants that wait after an error.
            progress: told after each batch.

        Raises:
            PostgresUnavailable: nothing more can be done.
            ModelMissing: the model has to be pulled first.

        """
        in_vain: set[TenantId] = set()
        unwritable: set[UUID] = set()

        def wanted(tenant: TenantId) -> bool:
            return tenant not in in_vain and (only is None or tenant in only)

        while True:
            damaged = [t for t in self.registry.damaged() if wanted(t)]
            pending = [
                p
                for p in self.outbox.pending_tenants(paused=paused)
                if wanted(p.tenant) and p.tenant not in damaged
            ]
            if not damaged and not pending:
                return
            for tenant in damaged:
                rebuilt = self._rebuilt(tenant)
                if rebuilt.verdict != "done":
                    in_vain.add(tenant)
                yield _as_outcome(rebuilt)
            for tenant, server in ((p.tenant, p.server) for p in pending):
                if server in unwritable:
                    outcome = self.sync.postpone(tenant, "its Chroma server takes no writes")
                else:
                    outcome = self.sync.run(tenant, progress=progress)
                if (
                    outcome.verdict == "postponed"
                    and server is not None
                    and server not in unwritable
                ):
                    unwritable |= set() if self.takes_writes(server) else {server}
                # A damaged one is looked at once more: it may be rebuilt by itself now.
                if outcome.verdict != "done" and not (
                    outcome.verdict == "damaged" and tenant in self.registry.damaged()
                ):
                    in_vain.add(tenant)
                yield outcome

    def _rebuilt(self, tenant: TenantId) -> Rebuilt:
        try:
            return self.rebuild(tenant)
        except ChromaUnavailable as error:
            return Rebuilt(tenant, "failed", reason=str(error))


def _as_outcome(rebuilt: Rebuilt) -> Outcome:
    return Outcome(
        rebuilt.tenant,
        "done" if rebuilt.verdict == "done" else "postponed",
        written=rebuilt.written,
        embedded=rebuilt.embedded,
        reused=rebuilt.reused,
        seconds=rebuilt.seconds,
        reason=rebuilt.reason,
    )
