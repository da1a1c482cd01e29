"""Forgetting a tenant in Postgres: memories, registration, proof; and tenants without memories."""

from collections.abc import Sequence
from uuid import UUID

import psycopg

from memory_pipeline.domain.erasure import PendingErasure, Traces
from memory_pipeline.domain.types import Generation, MemoryId, TenantId
from memory_pipeline.errors import ContractError, PostgresUnavailable
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.lease import lease_lost
from memory_pipeline.settings import Settings


class PostgresErasures:
    """The unfinished erasures, what each has to delete, and what is left of a tenant."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._wait_seconds = settings.request_seconds + settings.grace_seconds

    def request(self, tenant: TenantId) -> None:
        """Record that a tenant is to be forgotten; from this commit on it is not given up."""
        with self._database.transaction() as connection:
            queries().request_erasure(connection, tenant=tenant)

    def delete_memories(self, tenant: TenantId, ids: Sequence[MemoryId]) -> int:
        """Delete these memories of a tenant; return how many.

        Raises:
            ContractError: the table does not let them go: a reference, a trigger, a missing grant.

        """
        try:
            with self._database.statement() as connection:
                return int(queries().delete_memories(connection, tenant=tenant, ids=list(ids)))
        except psycopg.errors.LockNotAvailable as error:
            raise PostgresUnavailable("another transaction holds these memories") from error
        except psycopg.DatabaseError as error:
            raise ContractError(_refusal(error)) from error

    def fence(self, lease: Lease) -> None:
        """Take the tenant out of the registry, in one transaction under the lease's token.

        No request of an older lease, of a rebuild or of a verify stores anything of the tenant
        after that. Memories that exist all the same get a reset: nothing of them is lost.

        Raises:
            Fenced: the lease is lost; nothing was changed.
            ContractError: row level security hides rows from this role; nothing was changed.

        """
        sql, tenant = queries(), lease.tenant
        with self._database.transaction() as connection:
            locked = sql.lock_registration(connection, tenant=tenant, token=lease.token)
            if locked is None:
                raise lease_lost(connection, tenant, lease.token)
            sql.forget_pointers(connection, tenant=tenant)
            sql.forget_rebuilds(connection, tenant=tenant)
            sql.forget_generations(connection, tenant=tenant)
            sql.forget_failures(connection, tenant=tenant)
            sql.forget_results(connection, tenant=tenant)
            sql.forget_external_ids(connection, tenant=tenant)
            sql.forget_changes_of(connection, tenant=tenant)
            sql.deregister_tenant(connection, tenant=tenant)
            wait_seconds = self._wait_seconds if locked.creating else 0.0
            sql.fenced(connection, tenant=tenant, wait_seconds=wait_seconds)

    def forget_orphaned_provenance(self) -> None:
        """Delete the vectors of memories that are gone, and where they came from.

        Raises:
            ContractError: row level security hides rows from this role; nothing was deleted.

        """
        with self._database.transaction() as connection:
            queries().forget_orphaned_provenance(connection)

    def generations(self, tenant: TenantId) -> list[Generation]:
        """Return the tenant's forgotten generations whose collections may still exist."""
        with self._database.transaction() as connection:
            return [Generation(*r) for r in queries().erased_generations(connection, tenant=tenant)]

    def erased(self, tenant: TenantId, generation: UUID | None = None) -> None:
        """Delete the row of a forgotten generation whose collection is gone."""
        with self._database.transaction() as connection:
            queries().erased(connection, tenant=tenant, id=generation)

    def pending(
        self, tenant: TenantId | None = None, *, idle_seconds: float = 0.0
    ) -> list[PendingErasure]:
        """Return the unfinished erasures that no process has tried for so long; or a tenant's."""
        with self._database.statement() as connection:
            rows = queries().erasures(connection, tenant=tenant, idle_seconds=idle_seconds)
            return [
                PendingErasure(
                    TenantId(r.tenant),
                    r.requested_at,
                    r.fenced,
                    r.settles_seconds or 0.0,
                    r.memories,
                    r.waits_for,
                )
                for r in rows
            ]

    def postpone(self, tenant: TenantId, reason: str) -> None:
        """Record why an erasure is not finished."""
        with self._database.transaction() as connection:
            queries().postpone_erasure(connection, tenant=tenant, reason=reason[:500])

    def complete(self, tenant: TenantId) -> bool:
        """End an erasure of which no collection is left; return whether it was ended."""
        with self._database.transaction() as connection:
            return bool(queries().complete_erasure(connection, tenant=tenant))

    def traces(self, tenant: TenantId) -> Traces:
        """Count what Postgres has of a tenant. Raises ContractError where rows are hidden."""
        with self._database.transaction() as connection:
            return Traces(*queries().traces(connection, tenant=tenant))

    # ---- tenants without memories

    def empty_tenants(self, *, seconds: float, limit: int) -> list[TenantId]:
        """Return tenants that keep a collection and have had no memory for so long."""
        with self._database.transaction() as connection:
            rows = queries().empty_tenants(connection, seconds=seconds, limit=limit)
            return [TenantId(row.tenant) for row in rows]

    def retire_empty(self, lease: Lease) -> bool:
        """Retire the collection of a tenant that is still without memories; whether it was."""
        with self._database.transaction() as connection:
            return bool(queries().retire_empty(connection, tenant=lease.tenant, token=lease.token))

    def return_lease(self, lease: Lease) -> None:
        """Release a lease under which no sync took place. Harmless when it is lost."""
        with self._database.transaction() as connection:
            queries().return_lease(connection, tenant=lease.tenant, token=lease.token)


def _refusal(error: psycopg.DatabaseError) -> str:
    """Return what is in the way, without what the error quotes: that may be of a memory."""
    if isinstance(error, psycopg.errors.ForeignKeyViolation):
        what = f"rows of {error.diag.table_name} refer to them ({error.diag.constraint_name})"
        return f"the memories are not all deleted: {what}: delete those rows, then run this again"
    return (
        "the memories are not all deleted: a trigger or a constraint of memory_logs refuses it "
        f"(SQLSTATE {error.sqlstate}): delete them as the application does, then run this again"
    )
