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


@dataclass(frozen=True, slots=True)
class NewestChange:
    """The version of a tenant's memories: its newest change, and how many are pending."""

    tenant: TenantId
    seq: int
    pending: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that is alive; ``silent_seconds``: the age of its last heartbeat."""

    id: UUID
    host: str
    pid: int
    version: str
    started_at: datetime
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class ActiveWork:
    """How many tenants have a part of a rebuild in progress, and how many a lease."""

    rebuilds: int
    leases: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Pending changes, the age of the oldest in seconds, dead letters, and unfinished erasures."""

    changes: int
    oldest_seconds: float
    dead_letters: int
    erasures: int = 0


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
