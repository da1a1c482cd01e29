"""The words of the pipeline as frozen types. They hold facts and decide nothing."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, NewType
from uuid import UUID

import numpy as np
import numpy.typing as npt

TenantId = NewType("TenantId", str)
MemoryId = NewType("MemoryId", int)
Token = NewType("Token", int)
RebuildId = NewType("RebuildId", str)

Vector = npt.NDArray[np.float32]
"""One embedding: shape (768,), float32, finite, not all zero."""

Scalar = str | int | float | bool
"""What Chroma can filter by."""

DIMENSION = 768
# The whole numbers that a bigint of Postgres and an integer of Chroma can hold.
BIGINT = range(-(2**63), 2**63)
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def document_id(memory_id: MemoryId) -> str:
    """Name the document of a memory, as every collection does."""
    return f"memory_log_{memory_id}"


def memory_id_of(document: str) -> MemoryId | None:
    """Read the memory id back out of a document id; None where the pipeline did not write it."""
    named = re.fullmatch(r"memory_log_(-?[0-9]{1,19})", document)
    if named is None:
        return None
    found = MemoryId(int(named[1]))
    # Neither 007 nor a number that no memory can have: each memory has one name.
    return found if found in BIGINT and document_id(found) == document else None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a stored vector comes from: the text it stands for, the model, the vector."""

    text_hash: str
    model: str
    vector_hash: str


@dataclass(frozen=True, slots=True)
class ProvenanceUpdate:
    """Where a vector comes from, to be noted in place of what was noted when its row was read.

    Where another has noted something else since, that is newer, and stays.
    """

    now: Provenance
    before: Provenance | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """A row of ``memory_logs`` as one snapshot showed it.

    ``raw`` is ``raw_data::text`` as Postgres prints it. ``version`` is the row's ``xmin``.
    """

    id: MemoryId
    tenant: TenantId
    user_id: str | None
    project_id: str | None
    raw: str
    embedding: Vector | None
    created_at: datetime
    updated_at: datetime
    version: str
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """What Chroma stores for a memory.

    ``rewritten`` says that the collection may already hold an older vector under this id, so that
    the new one has to be looked up after it was written.
    """

    memory_id: MemoryId
    vector: Vector
    text: str | None
    metadata: Mapping[str, Scalar]
    rewritten: bool = False


GenerationState = Literal["new", "live", "building", "retired", "corrupt", "abandoned", "lost"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One built collection of a tenant: its id, where it lives and what it was built with.

    A tenant may still point to one that is ``corrupt`` (damaged) or ``lost`` (its server is gone):
    it is not written any more, and a rebuild takes its place.
    """

    id: UUID
    tenant: TenantId
    server: UUID
    collection_id: UUID | None
    model: str
    config_hash: str
    state: GenerationState = "live"

    @property
    def collection(self) -> str:
        """The collection's name: the generation's id and nothing that a caller could choose."""
        return f"memories-{self.id}"


def generation_of(collection: str) -> UUID | None:
    """Read the generation's id back out of a collection's name; None where it is none of ours."""
    said = collection.removeprefix("memories-")
    try:
        known = UUID(said)
    except ValueError:
        return None
    return known if collection == f"memories-{known}" else None


@dataclass(frozen=True, slots=True)
class RebuildPart:
    """One tenant's part in a rebuild, as its owner holds it."""

    rebuild: RebuildId
    tenant: TenantId
    owner: str
    re_embed: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a building generation was filled: every memory up to ``through`` stands in it."""

    through: MemoryId | None = None
    re_embed: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """An outbox row: this memory of this tenant is to be looked at again (None: all of them).

    ``age``: seconds since the memory was written, when the change was claimed; None where it was
    not: a reset, a confirm. ``again``: it was enqueued by us, to look at a memory again.
    """

    seq: int
    memory_id: MemoryId | None
    age: float | None = None
    recheck: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Changes that one token has claimed, with the generations to write them to.

    ``full``: as many as one claim takes; more of them may stand.
    """

    changes: tuple[Change, ...]
    targets: tuple[Generation, ...]
    full: bool = False

    @property
    def memory_ids(self) -> tuple[MemoryId, ...]:
        """Every memory concerned, once, in id order."""
        return tuple(sorted({c.memory_id for c in self.changes if c.memory_id is not None}))

    def only(self, ids: Collection[MemoryId]) -> "Claim":
        """Return the part of the claim that is about these memories."""
        return replace(self, changes=tuple(c for c in self.changes if c.memory_id in ids))

    def without(self, ids: Collection[MemoryId]) -> "Claim":
        """Return the part of the claim that is not about these memories."""
        return replace(self, changes=tuple(c for c in self.changes if c.memory_id not in ids))

    @property
    def resets(self) -> bool:
        """Whether the whole tenant is to be reconciled."""
        return any(c.memory_id is None for c in self.changes)


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
class Hit:
    """One search result: a memory with its current content in Postgres.

    ``distance``: the cosine distance to the text of the search, 0 to 2; smaller is nearer. It is
    the distance of the content that was indexed last, where the current one is not yet.
    ``metadata``: the current values that filters compare. ``memory``: the parsed JSON of raw_data;
    a number that neither 64 bits nor a double can hold is a text, as Postgres prints it.
    ``created_at`` has a time zone: a column without one is read as UTC.
    """

    memory_id: MemoryId
    distance: float
    metadata: Mapping[str, Scalar]
    memory: object = field(repr=False)
    created_at: datetime | None = None


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
