"""What can be asked of a collection in Chroma. Writes nothing.

A read beside a write is sometimes torn, and says what damage says: it is asked again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memory_pipeline.chroma.servers import Servers
from memory_pipeline.chroma.torn import retry_torn_reads
from memory_pipeline.domain.types import (
    DIMENSION,
    Generation,
    Match,
    MemoryId,
    Scalar,
    Stored,
    Vector,
    document_id,
    memory_id_of,
)
from memory_pipeline.ports import RenewLease

# Far below SQLite's limit of 32,766 variables, of which Chroma spends one a row; larger pages take
# twice as long a row.
PAGE = 5_000
NEIGHBOURS = 10
# A query for all of so many takes 20 ms.
EXHAUSTIVE = 2_000
# Documents that arrive while one asks for all of them.
SPARE_RESULTS = 100
# Cosine distances of one vector to itself and to a twin differ by rounding alone.
SAME_DISTANCE = 1e-5


class Reads:
    """Reads and queries generations on whichever server each lives."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def count(self, generation: Generation, *, seconds: float) -> int:
        """Count the documents of a generation."""
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            return collection.count()

    @retry_torn_reads
    def query(
        self,
        generation: Generation,
        vector: Vector,
        *,
        limit: int,
        where: Mapping[str, Any] | None,
        seconds: float,
    ) -> list[Match]:
        """Return the nearest documents, nearest first."""
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            found: Any = collection.query(
                query_embeddings=np.asarray([vector], dtype=np.float32),
                n_results=limit,
                where=dict(where) if where else None,
                include=["metadatas", "distances"],
            )
        matches = zip(found["ids"][0], found["distances"][0], found["metadatas"][0], strict=True)
        return [
            Match(memory_id, float(distance), metadata or {})
            for name, distance, metadata in matches
            if (memory_id := memory_id_of(name)) is not None
        ]

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return document id to content hash of all that the collection holds."""
        return {
            name: str(metadata.get("hash", ""))
            for page in self.pages(generation, renew=renew)
            for name, metadata in page
        }

    def pages(
        self, generation: Generation, *, renew: RenewLease
    ) -> Iterator[list[tuple[str, Mapping[str, Scalar]]]]:
        """Walk through the ids and metadata of all documents, a page at a time.

        While others write, a page may miss a document or bring one twice.
        """
        offset = 0
        while True:
            page = self._page(generation, offset, seconds=renew())
            yield [(n, m or {}) for n, m in zip(page["ids"], page["metadatas"], strict=True)]
            if len(page["ids"]) < PAGE:
                return
            offset += PAGE

    @retry_torn_reads
    def _page(self, generation: Generation, offset: int, *, seconds: float) -> Any:
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            return collection.get(limit=PAGE, offset=offset, include=["metadatas"])

    @retry_torn_reads
    def fetch(
        self,
        generation: Generation,
        ids: Sequence[MemoryId],
        *,
        seconds: float,
        whole: bool = False,
    ) -> dict[MemoryId, Stored]:
        """Return what is stored for these memories; with vectors and texts where ``whole``."""
        include: Any = ["metadatas", "embeddings", "documents"] if whole else ["metadatas"]
        names = {document_id(i): i for i in ids}
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            got: Any = collection.get(ids=list(names), include=include)
        count = len(got["ids"])
        vectors = got["embeddings"] if whole else [None] * count
        texts = got["documents"] if whole else [None] * count
        return {
            names[name]: Stored(
                metadata or {},
                None if vector is None else np.asarray(vector, dtype=np.float32),
                text,
            )
            for name, metadata, vector, text in zip(
                got["ids"], got["metadatas"], vectors, texts, strict=True
            )
        }

    @retry_torn_reads
    def reachable_ids(self, generation: Generation, count: int, *, seconds: float) -> list[str]:
        """Return the ids of all documents that a query can find, of some ``count`` that there are.

        Where the query starts makes no difference: it has no end.
        """
        anywhere = np.ones(DIMENSION, dtype=np.float32)
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            found: Any = collection.query(
                query_embeddings=np.stack([anywhere]),
                n_results=count + SPARE_RESULTS,
                include=[],  # with metadata no more than SQLite's variables allow
            )
        names: list[str] = found["ids"][0]
        return names

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return the documents that no query lists, however many results it may have.

        Chroma loses some whenever others beside them are rewritten: 2 of 45 after 150 changes.
        Looks at small collections alone, in some milliseconds; verification looks at all.
        """
        count = self.count(generation, seconds=renew())
        if count > EXHAUSTIVE:
            return []
        listed = self.reachable_ids(generation, count, seconds=renew())
        if len(listed) >= count:
            return []
        names = {name for page in self.pages(generation, renew=renew) for name, _ in page}
        return sorted(i for n in names.difference(listed) if (i := memory_id_of(n)) is not None)

    @retry_torn_reads
    def unreachable_by_vector(
        self, generation: Generation, vectors: Mapping[MemoryId, Vector], *, seconds: float
    ) -> set[MemoryId]:
        """Return those that a query by their own vector does not find, twins apart.

        One that only twins at equal distance keep out of the answer counts as found.
        """
        if not vectors:
            return set()
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            found: Any = collection.query(
                query_embeddings=np.stack(list(vectors.values())),
                n_results=NEIGHBOURS,
                include=["distances"],
            )
        return {
            memory_id
            for memory_id, names, distances in zip(
                vectors, found["ids"], found["distances"], strict=True
            )
            if document_id(memory_id) not in names
            and not (len(distances) == NEIGHBOURS and distances[-1] <= SAME_DISTANCE)
        }
