"""Drain the outbox: sync every tenant with changes, oldest first, until none is left.

A tenant with a damaged or lost collection is rebuilt first. A server that takes no writes is tried
for one tenant; its other tenants are postponed.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.domain.outcomes import Outcome, Rebuilt
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.sync.ports import DamagedTenants, PendingTenants
from memory_pipeline.sync.tenant import Sync

Progress = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class _Attempts:
    """What one drain does not try again."""

    only: Collection[TenantId] | None
    failed: set[TenantId] = field(default_factory=set)
    unwritable: set[UUID] = field(default_factory=set)

    def includes(self, tenant: TenantId) -> bool:
        """Whether a tenant was requested and has not failed yet."""
        return tenant not in self.failed and (self.only is None or tenant in self.only)


@dataclass(frozen=True, slots=True)
class Drain:
    """Syncs many tenants, one at a time. Leases keep it apart from workers and other drains."""

    outbox: PendingTenants
    registry: DamagedTenants
    sync: Sync
    rebuild: Callable[[TenantId], Rebuilt]
    takes_writes: Callable[[UUID], bool]

    def run(
        self,
        *,
        only: Collection[TenantId] | None = None,
        paused: bool = False,
        progress: Progress = lambda _: None,
    ) -> Iterator[Outcome]:
        """Sync until only changes of failed tenants are left; yield the outcome of each tenant.

        Args:
            only: these tenants and no others.
            paused: include tenants that pause after an error.
            progress: called with the outcome so far after each batch.

        Raises:
            PostgresUnavailable: no tenant can be synced.
            ModelMissing: the model has to be downloaded first.

        """
        attempts = _Attempts(only)
        while True:
            damaged = [t for t in self.registry.damaged() if attempts.includes(t)]
            pending = [
                p
                for p in self.outbox.pending_tenants(paused=paused)
                if attempts.includes(p.tenant) and p.tenant not in damaged
            ]
            if not damaged and not pending:
                return
            yield from self._rebuild_damaged(damaged, attempts)
            yield from self._sync_pending(pending, attempts, progress)

    def _rebuild_damaged(
        self, damaged: Sequence[TenantId], attempts: _Attempts
    ) -> Iterator[Outcome]:
        for tenant in damaged:
            try:
                rebuilt = self.rebuild(tenant)
            except ChromaUnavailable as error:
                rebuilt = Rebuilt(tenant, "failed", reason=str(error))
            if rebuilt.verdict != "done":
                attempts.failed.add(tenant)
            yield _as_outcome(rebuilt)

    def _sync_pending(
        self, pending: Sequence[PendingTenant], attempts: _Attempts, progress: Progress
    ) -> Iterator[Outcome]:
        for tenant, server in ((p.tenant, p.server) for p in pending):
            known = server in attempts.unwritable
            if known:
                outcome = self.sync.postpone(tenant, "its Chroma server takes no writes")
            else:
                outcome = self.sync.run(tenant, progress=progress)
            postponed = outcome.verdict == "postponed" and not known
            if postponed and server is not None and not self.takes_writes(server):
                attempts.unwritable.add(server)
            if outcome.verdict != "done" and not self._can_be_rebuilt(outcome):
                attempts.failed.add(tenant)
            yield outcome

    def _can_be_rebuilt(self, outcome: Outcome) -> bool:
        """Whether the next round rebuilds the tenant: its collection was just condemned."""
        return outcome.verdict == "damaged" and outcome.tenant in self.registry.damaged()


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
