"""Unreachable documents: stored in a collection, and found by no query.

Chroma's graph of neighbours loses them. An upsert that changes a vector leaves 1 to 2 % of those
documents without an edge that leads to them, and documents in the neighbourhood of a rewritten one
can lose theirs: 2 of 45 after 150 changes. A read by id, a count and the metadata still show them,
so only a query can tell.

Two questions find them. A query by a document's own vector has to return that document: it is asked
after each write. A query for as many results as there are documents has to return them all: it is
asked of small collections when a tenant is synced, and of every collection by a verify.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memory_pipeline.chroma.reads import Reads, retry_torn_reads
from memory_pipeline.domain.types import (
    DIMENSION,
    Document,
    Generation,
    MemoryId,
    Vector,
    document_id,
    memory_id_of,
)
from memory_pipeline.ports import RenewLease

# The results of a query by a document's own vector.
NEIGHBOURS = 10
# A query that returns this many documents takes 20 ms.
EXHAUSTIVE = 2_000
# Documents that may be added between the count and the query.
ADDED_MEANWHILE = 100
# Cosine distances from a vector to itself and to a twin differ by rounding alone.
SAME_DISTANCE = 1e-5


class Reachability(Reads):
    """Finds the documents of a generation that its graph cannot reach."""

    @retry_torn_reads
    def reachable_ids(self, generation: Generation, count: int, *, seconds: float) -> list[str]:
        """Return the ids of all documents that a query finds, of about ``count`` in all.

        The vector of the query makes no difference: the query visits the whole graph.
        """
        anywhere = np.ones(DIMENSION, dtype=np.float32)
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            found: Any = collection.query(
                query_embeddings=np.stack([anywhere]),
                n_results=count + ADDED_MEANWHILE,
                include=[],  # with metadata it is limited to SQLite's number of variables
            )
        names: list[str] = found["ids"][0]
        return names

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return the unreachable documents of a small collection, within milliseconds.

        For a large collection it returns none: only a verify checks those.
        """
        count = self.count(generation, seconds=renew())
        if count > EXHAUSTIVE:
            return []
        reachable = self.reachable_ids(generation, count, seconds=renew())
        if len(reachable) >= count:
            return []
        names = {name for page in self.pages(generation, renew=renew) for name, _ in page}
        return sorted(i for n in names.difference(reachable) if (i := memory_id_of(n)) is not None)

    @retry_torn_reads
    def unreachable_by_vector(
        self, generation: Generation, vectors: Mapping[MemoryId, Vector], *, seconds: float
    ) -> set[MemoryId]:
        """Return the documents that a query by their own vector does not find.

        A document that only twins at equal distance keep out of the results counts as found.
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

    def unreachable_among(
        self, generation: Generation, documents: Sequence[Document], *, renew: RenewLease
    ) -> list[Document]:
        """Return those of these documents, just written, that a query by their vector misses."""
        if not documents:
            return []
        vectors = {d.memory_id: d.vector for d in documents}
        missed = self.unreachable_by_vector(generation, vectors, seconds=renew())
        return [d for d in documents if d.memory_id in missed]
