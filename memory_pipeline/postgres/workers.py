"""Live processes in Postgres: who is there, and how fresh they keep things."""

import os
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from uuid import uuid4

from memory_pipeline.domain.lags import WINDOW_SECONDS, Lags
from memory_pipeline.domain.status import Backlog, WorkerInfo
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.database import Database, queries

# A live process says so every few seconds; one that was silent for longer is not counted on.
HEARTBEAT_SECONDS = 3.0
HEALTHY_SECONDS = 15.0


class PostgresWorkers:
    """The live processes of an installation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._id = uuid4()

    def heartbeat(self) -> None:
        """Say that this process is there."""
        with self._database.transaction() as connection:
            queries().heartbeat(
                connection,
                id=self._id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("memory-pipeline"),
            )

    def deregister(self) -> None:
        """Say that this process ends."""
        with self._database.transaction() as connection:
            queries().deregister(connection, id=self._id)

    def healthy(self) -> list[WorkerInfo]:
        """Return the live processes that were heard of late."""
        with self._database.transaction() as connection:
            rows = queries().workers(connection, seconds=HEALTHY_SECONDS)
            return [WorkerInfo(*row) for row in rows]

    def record_freshness(self, measured: Mapping[TenantId | None, Lags]) -> None:
        """Note how fresh tenants are; None is all of them together."""
        if not measured:
            return
        # In order: two processes never wait for each other.
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
        """Return how fresh these tenants, or all, were kept of late; None is all together."""
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
        """Return for how many seconds the oldest change of each has waited, where one does."""
        with self._database.transaction() as connection:
            rows = queries().waits(connection, tenants=list(tenants))
            return {TenantId(row.tenant): row.seconds for row in rows}

    def resume_paused(self) -> int:
        """Let every tenant that pauses after an error try at once; return how many that are."""
        with self._database.transaction() as connection:
            return int(queries().resume_paused(connection))

    def backlog(self) -> Backlog:
        """Count what waits."""
        with self._database.transaction() as connection:
            return Backlog(*queries().backlog(connection))
