"""What an operator wants to know, read from Postgres. Read-only but for verify results."""

from collections.abc import Sequence
from dataclasses import asdict

from psycopg.types.json import Jsonb

from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.status import BackupRefusal, NewestChange, TenantStatus, Totals
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.preflight import broken_triggers

# Findings of one tenant that are stored with their details; the rest is counted.
MOST_NOTED = 100


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
        """Return every capture trigger that is missing or would not always fire."""
        with self._database.transaction() as connection:
            return broken_triggers(connection)
