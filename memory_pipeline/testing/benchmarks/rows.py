"""The memories of benchmarks, the same ones each time, and their documents.

They resemble real ones: 450 bytes of JSON, and a unit vector near those of its tenant and topic.
Nothing here connects to Chroma.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
import numpy.typing as npt
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from memory_pipeline.content.document import Recipe, compose
from memory_pipeline.domain.types import (
    DIMENSION,
    Memory,
    MemoryId,
    MetadataValue,
    TenantId,
    document_id,
)
from memory_pipeline.postgres.database import Database

# Vectors made, and rows sent, at once: 3 MB.
CHUNK = 1000
# Cosines are about 0.2 between tenants, 0.4 in one, 0.6 in one topic of it, as with real texts.
COMMON_SHARE, TENANT_SHARE, TOPIC_SHARE, OWN_SHARE = 0.45, 0.45, 0.45, 0.63
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = ("fix", "review", "deploy", "measure", "design")
COMPONENTS = ("pool", "scheduler", "parser", "gateway", "billing", "search", "mailer", "importer")
DETAILS = (
    "The connection pool was exhausted while the nightly export held its cursor.",
    "A retry hid the first error, so the log showed the second one alone.",
    "The index was rebuilt by hand, and the planner chose it again at once.",
    "Two workers took the same lease after the clock of one had been set back.",
    "The cache answered with yesterday's price until its process was restarted.",
    "Nobody had read the warning that the certificate would end this week.",
)
SENTENCES = 4
ENDLESS = 10**7


@dataclass(frozen=True, slots=True)
class Load:
    """How many memories over how many tenants; the same load is always the same memories."""

    rows: int
    tenants: int
    seed: int = 0

    def tenant(self, number: int) -> TenantId:
        """Return the tenant of the row with this number; the next row is another tenant's."""
        return TenantId(f"user-{number % self.tenants:04d}")


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Documents of one tenant, in columns as Chroma's client takes them.

    ``tenant_size``: how many the tenant has in all, where these are a part of them.
    """

    tenant: TenantId
    tenant_size: int
    ids: Sequence[str]
    embeddings: npt.NDArray[np.float32]
    metadatas: Sequence[Mapping[str, MetadataValue]]
    texts: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, end: int) -> "Documents":
        """Return a slice of them. Vectors are shared, not copied."""
        return replace(
            self,
            ids=self.ids[first:end],
            embeddings=self.embeddings[first:end],
            metadatas=self.metadatas[first:end],
            texts=None if self.texts is None else self.texts[first:end],
        )


def memories(load: Load) -> Iterator[Memory]:
    """Yield the memories in id order, from 1 on, as an empty table numbers them."""
    centres = _Centres(load)
    for first in range(0, load.rows, CHUNK):
        numbers = range(first, min(first + CHUNK, load.rows))
        for number, vector in zip(numbers, centres.vectors(numbers), strict=True):
            created_at = BEGIN + timedelta(minutes=number)
            yield Memory(
                id=MemoryId(number + 1),
                tenant=load.tenant(number),
                user_id=load.tenant(number),
                project_id=f"project-{number % 7}",
                raw=_raw(number, created_at),
                embedding=vector,
                created_at=created_at,
                updated_at=created_at,
                version="",
            )


def new_memories(load: Load) -> Iterator[Memory]:
    """Yield endless memories that come after those of the load, and equal none of them."""
    return islice(memories(replace(load, rows=ENDLESS)), load.rows, None)


def fill(database: Database, load: Load) -> None:
    """Write the memories with their vectors to a migrated database whose ``memory_logs`` is new.

    Holds one chunk in memory. The triggers see each row, as they would an application's.
    """
    with database.transaction() as connection:
        register_vector(connection)
        with connection.cursor().copy(
            "COPY public.memory_logs (user_id, project_id, raw_data, embedding, created_at,"
            " updated_at) FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["text", "text", "jsonb", "vector", "timestamptz", "timestamptz"])
            for memory in memories(load):
                copy.write_row(
                    (
                        memory.user_id,
                        memory.project_id,
                        Jsonb(memory.raw, dumps=str),  # it is JSON already
                        memory.embedding,
                        memory.created_at,
                        memory.updated_at,
                    )
                )


def documents(load: Load, recipe: Recipe) -> list[Documents]:
    """Return each tenant's documents, exactly as a rebuild of the filled table writes them.

    All are held in memory, about 5 KB each.
    """
    tenants: dict[TenantId, list[Memory]] = {}
    for memory in memories(load):
        tenants.setdefault(memory.tenant, []).append(memory)
    return [_documents_of(tenant, of, recipe) for tenant, of in sorted(tenants.items())]


def _documents_of(tenant: TenantId, of: Sequence[Memory], recipe: Recipe) -> Documents:
    contents = [compose(memory, recipe) for memory in of]
    texts = [content.document for content in contents if content.document is not None]
    return Documents(
        tenant=tenant,
        tenant_size=len(of),
        ids=[document_id(memory.id) for memory in of],
        embeddings=np.stack([memory.embedding for memory in of if memory.embedding is not None]),
        metadatas=[dict(content.metadata) for content in contents],
        texts=texts or None,
    )


def _raw(number: int, created_at: datetime) -> str:
    """Return raw_data as Postgres prints it: shorter keys first, then by bytes."""
    sentences = (DETAILS[(number // (i + 1) + i) % len(DETAILS)] for i in range(SENTENCES))
    return json.dumps(
        {
            "date": created_at.date().isoformat(),
            "task": TASKS[number // 3 % len(TASKS)],
            "details": " ".join(sentences),
            "summary": f"Memory {number} of the {_topic(number)}: what was seen, and what was done",
            "component": _topic(number),
        }
    )


def _topic(number: int) -> str:
    return COMPONENTS[number // 11 % len(COMPONENTS)]


class _Centres:
    """The directions that vectors share, and the vectors around them."""

    def __init__(self, load: Load) -> None:
        self._load = load
        random = np.random.default_rng((load.seed, 0))
        self._common = _units(random, 1)
        self._topics = dict(zip(COMPONENTS, _units(random, len(COMPONENTS)), strict=True))
        self._tenants = _units(random, load.tenants)

    def vectors(self, numbers: range) -> npt.NDArray[np.float32]:
        """Return the unit vectors of these rows; the first number is the seed."""
        random = np.random.default_rng((self._load.seed, 1, numbers.start))
        tenants = self._tenants[np.asarray(numbers) % self._load.tenants]
        topics = np.stack([self._topics[_topic(number)] for number in numbers])
        return _normalised(
            COMMON_SHARE * self._common
            + TENANT_SHARE * tenants
            + TOPIC_SHARE * topics
            + OWN_SHARE * _units(random, len(numbers))
        )


def _units(random: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    return _normalised(random.standard_normal((count, DIMENSION), dtype=np.float32))


def _normalised(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)
