"""The words of the pipeline as frozen types. They hold facts and decide nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
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
BIGINT = range(-(2**63), 2**63)


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


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory that is not stored yet; ``raw`` is JSON."""

    user_id: str
    project_id: str | None
    created_at: datetime
    raw: str


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
class Hit:
    """One search result: the memory as Postgres has it now, nearest first."""

    memory_id: MemoryId
    distance: float
    metadata: Mapping[str, Scalar]
    memory: object = field(repr=False)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A Chroma server that is registered, with the number of memories it serves.

    ``ready``; ``lost``: its data was not where it was expected; ``retired``: it was given up.
    ``database_id``: from where its marker was last written; None: not yet, or it may be taken over.
    """

    id: UUID
    url: str
    state: str
    memories: int
    database_id: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A document that a query found."""

    memory_id: MemoryId
    distance: float
    metadata: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What a collection holds under one id; vector and text where they were asked for."""

    metadata: Mapping[str, Scalar]
    vector: Vector | None = None
    text: str | None = None
