"""Bring right what a verify has found: write memories again, or rebuild; then verify again."""

from collections.abc import Callable
from dataclasses import dataclass

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Rebuilt, Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.tenant import SAMPLE, Verify

ROUNDS = 3
# With more than this wrong, building anew is sooner done, and nobody sees it half-way.
REBUILD_SHARE = 0.2
# Another worker may be at it; it is not waited for longer than this.
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Repair:
    """Verifies and repairs tenants, one after the other."""

    verify: Verify
    outbox: PostgresOutbox
    sync: Sync
    rebuild: Callable[[TenantId], Rebuilt]
    clock: Clock = SYSTEM_CLOCK

    def run(self, tenant: TenantId, *, sample: int | None = SAMPLE) -> tuple[Verified, Verified]:
        """Verify, repair and verify again; return the first verdict and the last.

        Memories that differ are enqueued and synced. What is about the whole collection, a large
        part of it, or still there after that, is rebuilt: except what is merely unreachable, which
        a rebuild mends no better.

        Raises:
            ChromaUnavailable, PostgresUnavailable: it could not be brought to an end.

        """
        self._drain(tenant)  # what waits is no finding, and may be what was to be repaired
        first = last = self.verify.run(tenant, sample=sample)
        for round_ in range(ROUNDS):
            if not last.findings:
                break
            ids = [f.memory_id for f in last.findings if f.memory_id is not None]
            crowd = all(f.kind == "unreachable" for f in last.findings)
            whole = len(ids) < len(last.findings) or len(ids) > REBUILD_SHARE * last.documents
            if whole or (round_ and not crowd):
                self.rebuild(tenant)
            else:
                self.outbox.enqueue(tenant, ids)
                self._drain(tenant)
            last = self.verify.run(tenant, sample=sample)
        return first, last

    def _drain(self, tenant: TenantId) -> None:
        """Bring what stands, or wait until whoever has the tenant has brought it."""
        until = self.clock.monotonic() + PATIENCE_SECONDS
        while self.outbox.has_due_changes(tenant) and self.clock.monotonic() < until:
            if self.sync.run(tenant).verdict not in {"busy", "fenced"}:
                return
            self.clock.sleep(POLL_SECONDS)
