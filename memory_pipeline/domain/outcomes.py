"""What a sync, a rebuild and a verify report."""

from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from memory_pipeline.domain.types import MemoryId, TenantId

FailureKind = Literal["content", "embedding", "index", "unknown"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one memory could not be indexed this time.

    ``content``: its content cannot be read. ``embedding``: the model refuses its text. ``index``:
    Chroma refuses its document. ``content_hash`` identifies the content that was refused.
    """

    memory_id: MemoryId
    reason: str
    kind: FailureKind = "unknown"
    content_hash: str | None = None


Verdict = Literal["done", "busy", "fenced", "postponed", "refused", "damaged"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one sync of one tenant did.

    ``done``: every change that existed at its start is synced, or one batch of them where only one
    was requested. ``busy``: another worker holds the lease. ``fenced``: the lease was lost during
    the sync. ``postponed``: a dependency is down, the changes wait. ``refused``: the collection was
    built with other settings. ``damaged``: the collection is damaged or lost, the changes wait for
    its rebuild.

    Attributes:
        tenant: whose changes.
        verdict: how the sync ended.
        written: documents written to Chroma.
        deleted: documents deleted from Chroma.
        embedded: vectors computed by the model.
        reused: vectors read from Postgres.
        failed: memories that were refused.
        buried: those of them that became dead letters.
        unread_dates: memories written with a date field whose value cannot be read as a date.
        newest_change: the highest number of an acked change; 0: none was acked.
        more: whether more changes may be pending.
        seconds: the whole sync, waiting included.
        embed_seconds: embedding, with the backup of the vectors.
        write_seconds: writing to Chroma.
        error: the class of the error that ended the sync; empty: none did.
        reason: the message of that error.

    """

    tenant: TenantId
    verdict: Verdict = "done"
    written: int = 0
    deleted: int = 0
    embedded: int = 0
    reused: int = 0
    failed: int = 0
    buried: int = 0
    unread_dates: int = 0
    newest_change: int = 0
    more: bool = False
    seconds: float = 0.0
    embed_seconds: float = 0.0
    write_seconds: float = 0.0
    error: str = ""
    reason: str = ""

    def plus(self, newer: "Outcome") -> "Outcome":
        """Return the outcome of both together; ``newer`` is of the same tenant.

        Counts and seconds are summed, ``newest_change`` is the higher one. Verdict, ``more``,
        ``error`` and ``reason`` are the newer outcome's.
        """
        return replace(
            newer,
            written=self.written + newer.written,
            deleted=self.deleted + newer.deleted,
            embedded=self.embedded + newer.embedded,
            reused=self.reused + newer.reused,
            failed=self.failed + newer.failed,
            buried=self.buried + newer.buried,
            unread_dates=self.unread_dates + newer.unread_dates,
            newest_change=max(self.newest_change, newer.newest_change),
            seconds=self.seconds + newer.seconds,
            embed_seconds=self.embed_seconds + newer.embed_seconds,
            write_seconds=self.write_seconds + newer.write_seconds,
        )


RebuildVerdict = Literal["done", "skipped", "busy", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild of one tenant did.

    ``done``: the new generation is live. ``skipped``: this rebuild had finished the tenant before.
    ``busy``: another rebuild of the tenant is running. ``stopped``: the process was asked to stop;
    the next one resumes at the checkpoint. ``failed``: the building generation waits for a retry.
    """

    tenant: TenantId
    verdict: RebuildVerdict = "done"
    written: int = 0
    reused: int = 0
    embedded: int = 0
    repaired: int = 0
    documents: int = 0
    seconds: float = 0.0
    verify_seconds: float = 0.0
    reason: str = ""


FindingKind = Literal[
    "missing", "extra", "stale", "foreign", "vector", "unreachable",  # of one memory
    "wrong model", "damaged", "lost", "no collection",  # of a tenant
    "unproven",  # of a tenant, by the installation's history
    "capture",  # of the installation
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between the index and Postgres that no pending change will repair.

    missing: a memory without a document. extra: a document without a memory. foreign: a document
    of another tenant's memory, or of no tenant's. stale: a document with other content than its
    memory. vector: the vectors differ by more than 1e-5. unreachable: stored, but not found by its
    own vector. wrong model: built with another model or other settings. damaged: the collection
    answers with errors. lost: its server's data is gone. no collection: the tenant has memories and
    no generation. unproven: Postgres went back in time, and the tenant was not fully compared
    since. capture: a trigger is missing or would not always fire.
    """

    kind: FindingKind
    tenant: TenantId | None = None
    memory_id: MemoryId | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verify of one generation of a tenant has checked and found.

    ``pending``: documents that differ while a change is pending. ``buried``: documents that differ
    and are dead letters, ``waived`` of them by a person. ``unread_dates``: documents with a date
    field whose value cannot be read as a date. None of these is a finding.
    """

    tenant: TenantId
    generation: UUID | None = None
    documents: int = 0
    memories: int = 0
    pending: int = 0
    buried: int = 0
    waived: int = 0
    sampled: int = 0
    unread_dates: int = 0
    seconds: float = 0.0
    reach_seconds: float = 0.0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """One page of a replay: the memories found, and how many of them were newly enqueued."""

    found: int
    enqueued: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What an import has stored.

    ``imported`` are new, ``updated`` and ``unchanged`` were known by their external id, ``dropped``
    were discarded by a trigger of the application without an error.
    """

    imported: int = 0
    updated: int = 0
    unchanged: int = 0
    dropped: int = 0

    def __add__(self, other: "Stored") -> "Stored":
        """Return the sum."""
        return Stored(
            self.imported + other.imported,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.dropped + other.dropped,
        )
