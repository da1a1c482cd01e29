"""The outbox and the leases in Postgres: the pending changes, and one writer a tenant.

Each method is one short transaction. None of them calls Chroma or the model.
"""

import math
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from itertools import count

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.changes import (
    Change,
    Claim,
    ExpectedDifferences,
    PendingTenant,
    RemainingChanges,
)
from memory_pipeline.domain.dead_letters import Cause
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Generation, MemoryId, ProvenanceUpdate, TenantId, Token
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.clock_steps import ClockSteps
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.lease import PostgresLease, lease_lost
from memory_pipeline.postgres.registry import read_generation
from memory_pipeline.settings import Settings

# The pause before a row that the application had locked, or changed meanwhile, is tried again.
MISSED_PAUSE_SECONDS = 0.25
# How often a process looks for rows that no trigger saw and for a clock that was set back; it looks
# at its first query.
LOOK_SECONDS = 5.0

_worker_numbers = count(1)


class PostgresOutbox:
    """Pending changes, and the leases under which they are claimed and acked."""

    def __init__(self, database: Database, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._look_due = -math.inf
        self._clock_steps = ClockSteps(database, settings)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{next(_worker_numbers)}"

    def pending_tenants(self, *, paused: bool = False) -> list[PendingTenant]:
        """Return the tenants with changes to claim, oldest first; fans out TRUNCATEs first.

        Whoever looks for work also ends what a clock that was set back would leave waiting.
        """
        self._look()
        with self._database.transaction() as connection:
            _fan_out(connection)
            rows = queries().pending_tenants(connection, paused=paused)
            return [PendingTenant(*row) for row in rows]

    def _look(self) -> None:
        """Look for a clock that was set back and for rows that no trigger saw, if that is due."""
        if self._clock.monotonic() < self._look_due:
            return
        self._clock_steps.shorten_waits()
        with self._database.statement() as connection:
            queries().note_storage(connection)
        self._look_due = self._clock.monotonic() + LOOK_SECONDS

    def acquire_lease(self, tenant: TenantId) -> PostgresLease | None:
        """Take the tenant's lease with a new token; None while another worker holds it."""
        with self._database.transaction() as connection:
            taken = queries().acquire_lease(
                connection,
                tenant=tenant,
                owner=self._owner,
                lease_seconds=self._settings.lease_seconds,
            )
        if taken is None:
            return None
        return PostgresLease(
            tenant,
            Token(taken.lease_token),
            taken.retries,
            self._database,
            self._settings.lease_seconds,
            self._settings.request_seconds,
        )

    def claim(self, lease: Lease) -> Claim:
        """Claim the tenant's oldest due changes under the token, with the generations to write.

        A request for a change that was claimed before may still reach Chroma: its memory gets a
        confirm, which cannot be claimed before that request has been applied or has timed out.
        """
        wait_seconds = self._settings.request_seconds + self._settings.grace_seconds
        with self._database.transaction() as connection:
            pointers = queries().lock_lease(connection, tenant=lease.tenant, token=lease.token)
            if pointers is None:
                raise lease_lost(connection, lease.tenant, lease.token)
            claimed = list(
                queries().claim(
                    connection,
                    tenant=lease.tenant,
                    token=lease.token,
                    batch_size=self._settings.batch_size,
                    building=pointers.building,
                )
            )
            reclaimed = sorted(
                {
                    r.memory_id
                    for r in claimed
                    if r.claimed_before is not None and r.memory_id is not None
                }
            )
            if reclaimed:
                queries().schedule_confirms(
                    connection, tenant=lease.tenant, memory_ids=reclaimed, wait_seconds=wait_seconds
                )
            targets = [
                read_generation(connection, pointer)
                for pointer in (pointers.live, pointers.building)
                if pointer is not None
            ]
        changes = [
            Change(r.seq, r.memory_id, r.age, r.recheck, r.waited_seconds)
            for r in sorted(claimed, key=lambda r: r.seq)
        ]
        full = len(changes) == self._settings.batch_size
        return Claim(tuple(changes), tuple(targets), full)

    def ack(
        self,
        lease: Lease,
        claim: Claim,
        *,
        landed: dict[MemoryId, ProvenanceUpdate | None],
        failures: Sequence[Failure],
        missed: Sequence[MemoryId],
        recheck: Sequence[MemoryId],
    ) -> int:
        """Delete what landed, charge what failed, unclaim what was missed, enqueue rechecks.

        Only under the lease's token, all in one transaction. ``landed`` maps each memory whose
        document is now right to the update of its vector's provenance; None where the memory was
        deleted or nothing changes. A reset clears the failures of memories that are gone, too.

        Returns:
            How many memories became dead letters.

        Raises:
            Fenced: the lease is lost; nothing was changed.

        """
        sql = queries()
        with self._database.transaction() as connection:
            if sql.lock_lease(connection, tenant=lease.tenant, token=lease.token) is None:
                raise lease_lost(connection, lease.tenant, lease.token)
            buried = self._charge(connection, lease, failures, claim.targets)
            retried = {f.memory_id for f in failures} - buried
            done = set(landed) | buried
            if recheck:
                sql.enqueue(connection, tenant=lease.tenant, memory_ids=sorted(set(recheck)))
            sql.ack(
                connection,
                tenant=lease.tenant,
                token=lease.token,
                seqs=[c.seq for c in claim.changes if c.memory_id is None or c.memory_id in done],
            )
            self._unclaim(connection, lease, claim, set(missed), MISSED_PAUSE_SECONDS)
            self._unclaim(connection, lease, claim, retried, self._settings.retry_seconds)
            sql.clear_failures(connection, tenant=lease.tenant, memory_ids=list(landed))
            if claim.resets:
                sql.forget_failures_of_gone(connection, tenant=lease.tenant)
            _record(connection, landed)
        return len(buried)

    def pending(self, tenant: TenantId) -> int:
        """Count the tenant's changes, due or not."""
        with self._database.transaction() as connection:
            return int(queries().pending(connection, tenant=tenant))

    def newest_seq(self, tenant: TenantId) -> int:
        """Return the number of the tenant's newest change; 0 where it has none."""
        with self._database.transaction() as connection:
            return int(queries().newest_seq(connection, tenant=tenant))

    def newest_of_all(self) -> int:
        """Return the number of the newest change of all tenants; a TRUNCATE before it counts."""
        self._look()
        with self._database.transaction() as connection:
            _fan_out(connection)
            return int(queries().newest_of_all(connection))

    def remaining(
        self, through: int, tenants: Collection[TenantId] | None
    ) -> list[RemainingChanges]:
        """Return the changes up to a number that are not synced, of these tenants or of all."""
        with self._database.transaction() as connection:
            rows = queries().remaining(
                connection, through=through, tenants=None if tenants is None else [*tenants]
            )
            return [RemainingChanges(TenantId(r.tenant), r.changes, r.holder) for r in rows]

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Whether the tenant has a change that could be claimed now."""
        with self._database.transaction() as connection:
            return bool(queries().has_due_changes(connection, tenant=tenant))

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Enqueue rechecks of memories, as if they had changed."""
        if not memory_ids:
            return
        with self._database.transaction() as connection:
            queries().enqueue(connection, tenant=tenant, memory_ids=sorted(set(memory_ids)))

    def expected_differences(
        self, tenant: TenantId, memory_ids: Sequence[MemoryId]
    ) -> ExpectedDifferences:
        """Return for which of these memories a document may differ, and why."""
        with self._database.transaction() as connection:
            rows = queries().expected_differences(
                connection, tenant=tenant, memory_ids=list(memory_ids)
            )
            found = {(row.why, row.memory_id) for row in rows}
        return ExpectedDifferences(
            frozenset(MemoryId(i) for why, i in found if why == "pending" and i is not None),
            frozenset(MemoryId(i) for why, i in found if why != "pending" and i is not None),
            ("pending", None) in found,
            frozenset(MemoryId(i) for why, i in found if why == "waived" and i is not None),
        )

    def unclaim(self, lease: Lease, claim: Claim) -> None:
        """Unclaim changes for which no request was sent."""
        with self._database.transaction() as connection:
            self._unclaim(connection, lease, claim, {c.memory_id for c in claim.changes}, 0)

    def release_lease(self, lease: Lease, *, error: str | None = None) -> None:
        """Release the lease; with an error, the tenant backs off. Harmless when it is lost."""
        with self._database.transaction() as connection:
            if error is None:
                queries().release_lease(connection, tenant=lease.tenant, token=lease.token)
            else:
                queries().postpone(
                    connection,
                    tenant=lease.tenant,
                    token=lease.token,
                    error=error[:500],
                    retry_seconds=self._settings.retry_seconds,
                    retry_max_seconds=self._settings.retry_max_seconds,
                )

    def _charge(
        self,
        connection: Connection,
        lease: Lease,
        failures: Sequence[Failure],
        targets: Sequence[Generation],
    ) -> set[MemoryId]:
        once = {f.memory_id: f for f in failures}  # not once for each target
        failures = [once[i] for i in sorted(once)]  # in id order: no deadlock
        if not failures:
            return set()
        # All targets were built with the current settings, or the batch would not have begun.
        model, config_hash = (targets[0].model, targets[0].config_hash) if targets else ("", "")
        cause = Cause.of_now(model, config_hash)
        rows = queries().charge(
            connection,
            tenant=lease.tenant,
            memory_ids=[f.memory_id for f in failures],
            reasons=[f.reason[:500] for f in failures],
            kinds=[f.kind for f in failures],
            content_hashes=[f.content_hash for f in failures],
            model=cause.model,
            config_hash=cause.config_hash,
            version=cause.version,
            cause=cause.word,
            max_attempts=self._settings.max_attempts,
        )
        return {MemoryId(r.memory_id) for r in rows if r.buried}

    def _unclaim(
        self,
        connection: Connection,
        lease: Lease,
        claim: Claim,
        ids: set[MemoryId] | set[MemoryId | None],
        pause_seconds: float,
    ) -> None:
        seqs = [c.seq for c in claim.changes if c.memory_id in ids]
        if seqs:
            queries().unclaim(
                connection,
                tenant=lease.tenant,
                token=lease.token,
                seqs=seqs,
                pause_seconds=pause_seconds,
            )


def _record(connection: Connection, landed: Mapping[MemoryId, ProvenanceUpdate | None]) -> None:
    kept = {i: n for i, n in landed.items() if n is not None}
    gone = [i for i, n in landed.items() if n is None]
    if kept:
        record_provenance(connection, kept)
    if gone:
        queries().forget_provenance(connection, memory_ids=gone)


def record_provenance(connection: Connection, updates: Mapping[MemoryId, ProvenanceUpdate]) -> None:
    """Store provenance where the stored one is still what was read with the rows."""
    new = [update.new for update in updates.values()]
    before = [update.expected for update in updates.values()]
    queries().record_provenance(
        connection,
        memory_ids=list(updates),
        text_hashes=[p.text_hash for p in new],
        models=[p.model for p in new],
        vector_hashes=[p.vector_hash for p in new],
        text_hashes_before=[p and p.text_hash for p in before],
        models_before=[p and p.model for p in before],
        vector_hashes_before=[p and p.vector_hash for p in before],
    )


def _fan_out(connection: Connection) -> None:
    """Turn what happened to the whole table into a reset of each tenant."""
    if queries().fan_out_truncations(connection):
        queries().lift_time_limit(connection)  # it reads the whole table
        queries().reset_new_tenants(connection)
