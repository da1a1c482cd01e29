"""What a sync, a rebuild and a verify report."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from memory_pipeline.domain.types import MemoryId, TenantId

FailureKind = Literal["content", "embedding", "index", "unknown"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one memory could not be indexed this time.

    ``content``: what it says cannot be read. ``embedding``: the model refuses its text. ``index``:
    Chroma refuses its document. ``content_hash`` names the content that was refused.
    """

    memory_id: MemoryId
    reason: str
    kind: FailureKind = "unknown"
    content_hash: str | None = None


Verdict = Literal["done", "busy", "fenced", "postponed", "refused", "damaged"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one sync of one tenant did.

    ``done``: all that stood when it began was brought, or one batch where that was asked for;
    ``more``: more of it may stand. ``busy``: another worker holds the lease.
    ``fenced``: the lease was lost on the way. ``postponed``: a dependency is down, the changes
    wait. ``refused``: the collection was built with other settings. ``damaged``: the collection is
    damaged or lost; the changes wait for its rebuild. ``error``: the class of what went wrong.
    """

    tenant: TenantId
    verdict: Verdict = "done"
    written: int = 0
    deleted: int = 0
    embedded: int = 0
    reused: int = 0
    failed: int = 0
    buried: int = 0
    newest_change: int = 0
    more: bool = False
    seconds: float = 0.0
    embed_seconds: float = 0.0
    write_seconds: float = 0.0
    error: str = ""
    reason: str = ""


RebuildVerdict = Literal["done", "skipped", "busy", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild of one tenant did.

    ``done``: the new generation is live. ``skipped``: this rebuild had done it before. ``busy``:
    another rebuild of the tenant is under way. ``stopped``: the process was told to end; whoever
    goes on begins where it was. ``failed``: what was filled waits for another try.
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
    """A difference between the index and Postgres that nothing is on its way to mend.

    missing: a memory without a document. extra: a document without a memory. foreign: a document
    of another tenant's memory, or of nobody's. stale: what the document says is not what the
    memory says. vector: they differ beyond 1e-5. unreachable: stored, and not found by its own
    vector. wrong model: built with another model or other settings. damaged: the collection answers
    with errors. lost: its server's data is gone. no collection: the tenant has memories and no
    generation. unproven: Postgres went back in time, and the tenant was not wholly compared since.
    capture: a trigger is missing or would not always fire.
    """

    kind: FindingKind
    tenant: TenantId | None = None
    memory_id: MemoryId | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verify of one generation of a tenant has looked at and found.

    ``excused``: differ, and a change waits. ``buried``: differ and are dead letters, ``waived`` of
    them by a person. None of these is a finding.
    """

    tenant: TenantId
    generation: UUID | None = None
    documents: int = 0
    memories: int = 0
    pending: int = 0
    buried: int = 0
    waived: int = 0
    sampled: int = 0
    seconds: float = 0.0
    reach_seconds: float = 0.0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """A page: the memories that were found, and those of them that were not enqueued before."""

    found: int
    enqueued: int
