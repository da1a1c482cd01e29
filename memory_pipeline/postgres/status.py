"""What an operator wants to know, read from Postgres. Read-only but for verify results."""

from collections.abc import Sequence
from dataclasses import asdict

from psycopg.types.json import Jsonb

from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.status import BackupRefusal, NewestChange, TenantStatus, Totals
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.preflight import publication_problems
from memory_pipeline.postgres.table_contract import broken_triggers, storage_problems

# Findings of one tenant that are stored with their details; the rest is counted.
MOST_NOTED = 100
UNSEEN = {
    "columns": "the columns of the table have changed, and its triggers could not read every row "
    "that was written: `memory-pipeline migrate` says what is missing; the next sync after that "
    "compares every tenant",
    "storage": "a partition came, went or was emptied, or triggers were off or replaced: rows may "
    "have changed unseen; the next sync compares every tenant: `memory-pipeline sync`",
}


class PostgresStatus:
    """Figures for ``status``, ``tenants`` and the Dagster UI."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def totals(self) -> Totals:
        """Count everything."""
        with self._database.statement() as connection:
            return Totals(*queries().totals(connection))

    def tenants(self) -> list[TenantStatus]:
        """Return one line a registered tenant."""
        with self._database.statement() as connection:
            return [TenantStatus(*row) for row in queries().tenants(connection)]

    def newest_changes(self, tenants: Sequence[TenantId]) -> list[NewestChange]:
        """Return the newest pending change of each of these tenants that has one."""
        with self._database.statement() as connection:
            rows = queries().newest_changes(connection, tenants=list(tenants))
            return [NewestChange(*row) for row in rows]

    def record_verification(self, verified: Verified) -> None:
        """Store the result of a tenant's newest verify."""
        findings = [asdict(f) for f in verified.findings[:MOST_NOTED]]
        with self._database.transaction() as connection:
            queries().record_verification(
                connection,
                tenant=verified.tenant,
                documents=verified.documents,
                found=len(verified.findings),
                findings=Jsonb(findings),
                unread_dates=verified.unread_dates,
            )

    def trusts_vectors(self) -> bool:
        """Return whether vectors that the pipeline did not write count as the current model's."""
        with self._database.transaction() as connection:
            decided = queries().installation(connection)
            return decided is not None and decided.vectors == "trust"

    def backup_refusal(self) -> BackupRefusal | None:
        """Return why the last backup of vectors was refused, if it was."""
        with self._database.statement() as connection:
            row = queries().backup_refusal(connection)
        return None if row is None else BackupRefusal(*row)

    def broken_capture(self) -> list[str]:
        """Return what keeps changes from being captured: triggers, and rows that have none."""
        with self._database.transaction() as connection:
            broken = broken_triggers(connection)
            return [*broken, *storage_problems(connection, self._database.table)]

    def unseen(self) -> list[str]:
        """Return why every tenant is about to be compared: rows that no trigger has seen."""
        with self._database.transaction() as connection:
            reasons = [row.reason for row in queries().unseen(connection)]
        return [UNSEEN[reason] for reason in reasons]

    def publications(self) -> list[str]:
        """Return a line for each publication that replicates the pipeline's own tables."""
        with self._database.transaction() as connection:
            return publication_problems(connection)
