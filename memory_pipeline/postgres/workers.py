"""Workers in Postgres: which are alive, and how fresh they keep the index."""

import os
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from uuid import uuid4

from memory_pipeline.domain.lags import WINDOW_SECONDS, Lags
from memory_pipeline.domain.status import Backlog, FailingReports, WorkerInfo
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.database import Database, queries

# A worker without a heartbeat for HEALTHY_SECONDS is taken to be gone, unless it rests.
HEALTHY_SECONDS = 15.0


class PostgresWorkers:
    """The workers of an installation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._id = uuid4()

    def heartbeat(
        self, failing: FailingReports | None = None, *, quiet_seconds: float = 0.0
    ) -> None:
        """Record that this worker is alive, for how long it may be silent, and what fails."""
        with self._database.transaction() as connection:
            queries().heartbeat(
                connection,
                id=self._id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("memory-pipeline"),
                quiet_seconds=quiet_seconds,
                unreported_tenants=failing.tenants if failing else 0,
                report_failure=failing.reason if failing else None,
            )

    def deregister(self) -> None:
        """Delete this worker's row: it ends."""
        with self._database.transaction() as connection:
            queries().deregister(connection, id=self._id)

    def healthy(self) -> list[WorkerInfo]:
        """Return the workers with a recent heartbeat."""
        with self._database.transaction() as connection:
            rows = queries().workers(connection, seconds=HEALTHY_SECONDS)
            return [WorkerInfo(*row) for row in rows]

    def record_freshness(self, measured: Mapping[TenantId | None, Lags]) -> None:
        """Store how fresh tenants are; None is all of them together."""
        if not measured:
            return
        # In order of tenants: two workers never deadlock.
        ordered = sorted(measured.items(), key=lambda one: one[0] or "")
        with self._database.transaction() as connection:
            queries().record_freshness(
                connection,
                tenants=[tenant for tenant, _ in ordered],
                changes=[lags.changes for _, lags in ordered],
                p50=[lags.p50 for _, lags in ordered],
                p95=[lags.p95 for _, lags in ordered],
                p99=[lags.p99 for _, lags in ordered],
                slowest=[lags.slowest for _, lags in ordered],
            )

    def freshness(self, tenants: Sequence[TenantId] | None = None) -> dict[TenantId | None, Lags]:
        """Return how fresh these tenants, or all, were recently; None is all of them together."""
        with self._database.transaction() as connection:
            rows = queries().freshness(
                connection, seconds=WINDOW_SECONDS, tenants=None if tenants is None else [*tenants]
            )
            return {
                None if r.tenant is None else TenantId(r.tenant): Lags(
                    r.changes, r.p50, r.p95, r.p99, r.slowest
                )
                for r in rows
            }

    def waits(self, tenants: Sequence[TenantId]) -> dict[TenantId, float]:
        """Return the age in seconds of the oldest pending change of each tenant that has one."""
        with self._database.transaction() as connection:
            rows = queries().waits(connection, tenants=list(tenants))
            return {TenantId(row.tenant): row.seconds for row in rows}

    def resume_paused(self) -> int:
        """End the back-off of every tenant; return how many were backing off."""
        with self._database.transaction() as connection:
            return int(queries().resume_paused(connection))

    def backlog(self) -> Backlog:
        """Return the backlog of all tenants."""
        with self._database.transaction() as connection:
            return Backlog(*queries().backlog(connection))
