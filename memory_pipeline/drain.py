"""Drain the outbox: every tenant with changes, oldest first, until none is left."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from memory_pipeline.model import Outcome, TenantId
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.sync import Sync


@dataclass(frozen=True, slots=True)
class Drain:
    """Runs the heart over tenants. Whoever else syncs at the same time is kept apart by leases."""

    outbox: PostgresOutbox
    sync: Sync

    def run(
        self,
        *,
        only: Collection[TenantId] | None = None,
        paused: bool = False,
        progress: Callable[[Outcome], None] | None = None,
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
        while True:
            pending = [
                p.tenant
                for p in self.outbox.pending_tenants(paused=paused)
                if p.tenant not in in_vain and (only is None or p.tenant in only)
            ]
            if not pending:
                return
            for tenant in pending:
                outcome = self.sync.run(tenant, progress=progress)
                if outcome.verdict not in {"done", "replaced"}:
                    in_vain.add(tenant)
                yield outcome
