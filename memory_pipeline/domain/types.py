"""The vocabulary as frozen types. They hold facts and decide nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
"""A single value that Chroma can filter by."""

MetadataValue = Scalar | list[Scalar]
"""What metadata has under a key. A list is never empty, and its values are all of one type."""

DIMENSION = 768
# The whole numbers that a bigint of Postgres and an integer of Chroma can hold.
BIGINT = range(-(2**63), 2**63)
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def document_id(memory_id: MemoryId) -> str:
    """Return the id of a memory's document, the same in every collection."""
    return f"memory_log_{memory_id}"


def memory_id_of(document: str) -> MemoryId | None:
    """Return the memory id in a document id; None where the pipeline did not write it."""
    named = re.fullmatch(r"memory_log_(-?[0-9]{1,19})", document)
    if named is None:
        return None
    found = MemoryId(int(named[1]))
    # Refuse 007 and numbers that no memory can have: each memory has one document id.
    return found if found in BIGINT and document_id(found) == document else None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a stored vector comes from: hash of its text, model, hash of the vector itself."""

    text_hash: str
    model: str
    vector_hash: str


@dataclass(frozen=True, slots=True)
class ProvenanceUpdate:
    """Compare-and-set of a vector's provenance: store ``new`` if the stored one is ``expected``.

    If another worker has recorded a newer one since, that one stays.
    """

    new: Provenance
    expected: Provenance | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BackedUpVector:
    """A vector in the pipeline's own table, with the text and the model that it is of."""

    vector: Vector
    text_hash: str
    model: str


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """A row of ``memory_logs`` as one snapshot showed it.

    ``raw`` is ``raw_data::text`` as Postgres prints it. ``version`` is the row's ``xmin``.
    ``provenance`` is None where the pipeline has recorded none for the vector. A time is None where
    the column is NULL, or has no time that Python can represent: infinity, years before 2 or after
    9998. ``backed_up`` is what the pipeline's own table has for the memory, if anything.
    """

    id: MemoryId
    tenant: TenantId
    user_id: str | None
    project_id: str | None
    raw: str
    embedding: Vector | None
    created_at: datetime | None
    updated_at: datetime | None
    version: str
    provenance: Provenance | None = None
    backed_up: BackedUpVector | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in a file something stands: its first line, its place in an array, and its text."""

    line: int
    text: str
    element: int | None = None

    def __str__(self) -> str:
        """Return the place, without the text."""
        return f"line {self.line}" + (f", element {self.element}" if self.element else "")


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory that is not stored yet.

    ``raw`` is JSON, as it was given. ``created_at`` is a time in UTC as Postgres reads it; None:
    the time at which it is stored.
    """

    user_id: str | None
    project_id: str | None
    created_at: str | None
    raw: str
    external_id: str | None
    origin: Origin


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """What Chroma stores for a memory.

    ``rewritten``: the collection may already hold an older vector under this id, so the new one is
    queried after the write.
    """

    memory_id: MemoryId
    vector: Vector
    text: str | None
    metadata: Mapping[str, MetadataValue]
    rewritten: bool = False


GenerationState = Literal["new", "live", "building", "retired", "corrupt", "abandoned", "lost"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One built collection of a tenant: its id, where it lives and what it was built with.

    A tenant may still point to a ``corrupt`` (damaged) or ``lost`` (its server is gone) generation:
    batches do not write it any more, and a rebuild replaces it.
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
        """The collection's name: made of the generation's id, never of a caller's choice."""
        return f"memories-{self.id}"


def generation_of(collection: str) -> UUID | None:
    """Return the generation id in a collection's name; None where the pipeline did not name it."""
    suffix = collection.removeprefix("memories-")
    try:
        generation = UUID(suffix)
    except ValueError:
        return None
    return generation if collection == f"memories-{generation}" else None


@dataclass(frozen=True, slots=True)
class RebuildPart:
    """One tenant's part in a rebuild, as its owner holds it."""

    rebuild: RebuildId
    tenant: TenantId
    owner: str
    re_embed: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a building generation was filled: it holds every memory up to ``through``."""

    through: MemoryId | None = None
    re_embed: bool = False


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
    metadata: Mapping[str, MetadataValue]
    memory: object = field(repr=False)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A registered Chroma server, with the number of memories in its generations.

    ``state``: ``ready``; ``lost``: its data was not where it was expected; ``retired``: replaced
    for good. ``database_id``: the database that wrote its marker last; None: none yet, or it may be
    taken over.
    """

    id: UUID
    url: str
    state: str
    memories: int
    database_id: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A document that a query found; ``distance`` as in ``Hit``."""

    memory_id: MemoryId
    distance: float
    metadata: Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A document as a collection holds it; vector and text where they were requested."""

    metadata: Mapping[str, MetadataValue]
    vector: Vector | None = None
    text: str | None = None
