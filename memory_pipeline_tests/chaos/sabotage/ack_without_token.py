"""Acks every claimed change, also after another worker has acquired the lease."""

import time
from collections.abc import Sequence

from memory_pipeline.cli import main
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import MemoryId, ProvenanceUpdate
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.outbox import PostgresOutbox

# As long as a slow link to Postgres takes: most freezes happen before the ack of a batch.
WAY_SECONDS = 0.4
ACK = "DELETE FROM memory_pipeline.change WHERE tenant = %s AND seq = ANY(%s)"
guarded = PostgresOutbox.ack


def ack(
    self: PostgresOutbox,
    lease: Lease,
    claim: Claim,
    *,
    landed: dict[MemoryId, ProvenanceUpdate | None],
    failures: Sequence[Failure],
    missed: Sequence[MemoryId],
    recheck: Sequence[MemoryId],
) -> int:
    """Delete the claimed changes without checking the token."""
    if failures or missed or recheck:
        return guarded(
            self, lease, claim, landed=landed, failures=failures, missed=missed, recheck=recheck
        )
    time.sleep(WAY_SECONDS)
    with self._database.transaction() as connection:
        connection.execute(ACK, (lease.tenant, [c.seq for c in claim.changes]))
    return 0


PostgresOutbox.ack = ack  # type: ignore[method-assign]
main()
