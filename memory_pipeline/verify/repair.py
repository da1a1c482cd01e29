"""Repair one tenant: write again what a verify has found wrong, or rebuild; then verify again."""

from collections.abc import Callable
from dataclasses import dataclass

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Rebuilt, Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.ports import Rechecks
from memory_pipeline.verify.tenant import SAMPLE, Verify

ROUNDS = 3
# With a larger share of documents wrong, a rebuild is faster, and no search sees it half done.
REBUILD_SHARE = 0.2
# How long another worker may hold the tenant before the repair verifies all the same.
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Repaired:
    """The verdicts before a repair and after it; the same where nothing was found."""

    before: Verified
    after: Verified


@dataclass(frozen=True, slots=True)
class Repair:
    """Verifies and repairs tenants, one after the other."""

    verify: Verify
    outbox: Rechecks
    sync: Sync
    rebuild: Callable[[TenantId], Rebuilt]
    clock: Clock = SYSTEM_CLOCK

    def run(self, tenant: TenantId, *, sample: int | None = SAMPLE) -> Repaired:
        """Verify, repair and verify again.

        Memories that differ are enqueued and synced. A finding about the whole collection, about a
        large share of its documents, or one that a sync has not repaired leads to a rebuild; except
        where documents are only unreachable, which a rebuild repairs no better.

        Raises:
            ChromaUnavailable, PostgresUnavailable: the repair was interrupted.

        """
        self._drain(tenant)  # a pending change is no finding, and may be the repair
        before = after = self.verify.run(tenant, sample=sample)
        for round_ in range(ROUNDS):
            if not after.findings:
                break
            ids = [f.memory_id for f in after.findings if f.memory_id is not None]
            only_unreachable = all(f.kind == "unreachable" for f in after.findings)
            whole = len(ids) < len(after.findings) or len(ids) > REBUILD_SHARE * after.documents
            if whole or (round_ and not only_unreachable):
                self.rebuild(tenant)
            else:
                self.outbox.enqueue(tenant, ids)
                self._drain(tenant)
            after = self.verify.run(tenant, sample=sample)
        return Repaired(before, after)

    def _drain(self, tenant: TenantId) -> None:
        """Sync the due changes, or wait until the worker that holds the tenant has synced them."""
        until = self.clock.monotonic() + PATIENCE_SECONDS
        while self.outbox.has_due_changes(tenant) and self.clock.monotonic() < until:
            if self.sync.run(tenant).verdict not in {"busy", "fenced"}:
                return
            self.clock.sleep(POLL_SECONDS)
