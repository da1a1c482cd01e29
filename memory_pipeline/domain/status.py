"""The state of an installation, as Postgres knows it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory_pipeline.domain.types import TenantId


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """One line of ``memory-pipeline tenants``, as Postgres knows it."""

    tenant: TenantId
    partition_key: str
    generation: UUID | None
    collection_id: UUID | None
    server: UUID | None
    memories: int
    pending_changes: int
    dead_letters: int
    waived_dead_letters: int
    lag_seconds: float
    last_synced_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Totals:
    """The installation in numbers; times in seconds."""

    memories: int
    memories_without_tenant: int
    pending_changes: int
    oldest_pending_seconds: float
    dead_letters: int
    waived_dead_letters: int
    retrying: int
    tenants: int
    paused_tenants: int
    damaged_tenants: int
    rebuilding_tenants: int
    findings: int
    unread_dates: int


@dataclass(frozen=True, slots=True)
class NewestChange:
    """The version of a tenant's memories: its newest change, and how many are pending."""

    tenant: TenantId
    seq: int
    pending: int


@dataclass(frozen=True, slots=True)
class FailingReports:
    """A worker cannot tell Dagster what it synced: of how many tenants, and why.

    The reason is a sentence that names the command that mends it.
    """

    tenants: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that is alive.

    Attributes:
        id: of the worker; a process that is started again has another.
        host: where it runs.
        pid: its process there.
        version: of the package.
        started_at: its first heartbeat.
        silent_seconds: the age of its last heartbeat.
        quiet_seconds: for how long it may be silent because it rests.
        unreported_tenants: synced tenants that it could not tell Dagster of.
        report_failure: why, and what mends it; None: its reports succeed.
        report_failing_seconds: for how long they have failed.

    """

    id: UUID
    host: str
    pid: int
    version: str
    started_at: datetime
    silent_seconds: float
    quiet_seconds: float = 0.0
    unreported_tenants: int = 0
    report_failure: str | None = None
    report_failing_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ActiveWork:
    """How many tenants have a part of a rebuild in progress, and how many a lease."""

    rebuilds: int
    leases: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Pending changes, the age of the oldest in seconds, dead letters, and unfinished erasures.

    ``unbacked_memories``: of how many memories a backup of the vector was refused, since one last
    succeeded.
    """

    changes: int
    oldest_seconds: float
    dead_letters: int
    unbacked_memories: int = 0
    erasures: int = 0


@dataclass(frozen=True, slots=True)
class BackupRefusal:
    """Why vectors are not backed up: the last attempt was refused, under the setting ``backup``.

    ``reason``: the condition, and what raised it; no content. ``memories``: how many backups were
    refused for this reason, since ``first_at``.
    """

    backup: str
    reason: str
    memories: int
    first_at: datetime

    @property
    def problem(self) -> str:
        """The sentence of the status: what is refused, what follows, and what ends it."""
        end = (
            "MEMORY_PIPELINE_BACKUP=table keeps them in a table of the pipeline's own, "
            "MEMORY_PIPELINE_BACKUP=off keeps none"
            if self.backup == "on"
            else "MEMORY_PIPELINE_BACKUP=off keeps none"
        )
        return (
            f"vectors are not backed up since {self.first_at:%Y-%m-%d %H:%M:%S%z} "
            f"({self.memories} memories): {self.reason}; every document is written all the same, "
            f"and a rebuild computes their vectors again; {end}"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a rebuild, in tenants and in documents."""

    tenants: int
    done: int
    failed: int
    written: int
    reused: int
    embedded: int


@dataclass(frozen=True, slots=True)
class LastRebuild:
    """How the newest rebuild of a tenant ended."""

    tenant: TenantId
    state: str
    ended_at: datetime
    error: str | None
