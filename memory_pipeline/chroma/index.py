"""Collections of documents in Chroma, one a generation. Handles Chroma as it is.

What is done here and why (measured on 1.5.9):

- prime: the first read of a collection after writes makes the next write replay everything since
  the last save (4 s at 4,000 rows); a ``count()`` before the first write avoids it.
- look up what was rewritten: an upsert that changes a vector leaves 1 to 2 % of them unreachable
  for ever; delete + upsert for all leaves a gap that 13 % of searches saw. So: upsert, ask for
  each changed vector, and only those that are not found are deleted and upserted again.
- no list metadata, no embedding function, pages below SQLite's variable limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np

from memory_pipeline.chroma.client import opened
from memory_pipeline.chroma.servers import Servers
from memory_pipeline.errors import Corrupt
from memory_pipeline.model import (
    Document,
    Generation,
    MemoryId,
    Scalar,
    Vector,
    document_id,
    memory_id_of,
)
from memory_pipeline.ports import Hold

# Below SQLite's limit of 32,766 variables, which Chroma spends one a row.
PAGE = 20_000
# A larger write delays every other tenant of the server: 250 rows take about 0.3 s.
DOCUMENTS_A_WRITE = 250
BYTES_A_WRITE = 8_000_000
# Rows not yet saved stay in one queue that every write of the server scans; saving costs more
# the larger the collection is.
LARGE_TENANT = 5_000
SYNC_THRESHOLD_SMALL = 200
SYNC_THRESHOLD_LARGE = 2_000
NEIGHBOURS = 10
# No memory has this id, so deleting it is a write that finds nothing to do.
CONTROL_ID = "memory_log_control"
# Cosine distances of one vector to itself and to a twin differ by rounding alone.
SAME_DISTANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Match:
    """A document that a query found."""

    memory_id: MemoryId
    distance: float
    metadata: Mapping[str, Scalar]


class ChromaIndex:
    """Writes and queries generations on whichever server each lives."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def recognise(self) -> None:
        """Check the servers' markers again. Raises ServerLost or ChromaUnavailable."""
        self._servers.forget()
        self._servers.recognise()

    def place(self) -> UUID:
        """Choose the server of a new generation."""
        return self._servers.for_new_generation()

    def create(self, generation: Generation, *, memories: int, hold: Hold) -> Generation:
        """Create the generation's collection; return the generation with the collection's id."""
        large = memories >= LARGE_TENANT
        client = self._servers.client(generation.server)
        with client.call(hold(), generation=generation.id) as server:
            from chromadb.api.collection_configuration import (  # noqa: PLC0415 - chromadb is slow
                CreateCollectionConfiguration,
            )

            configuration = CreateCollectionConfiguration(
                hnsw={
                    "space": "cosine",
                    "sync_threshold": SYNC_THRESHOLD_LARGE if large else SYNC_THRESHOLD_SMALL,
                },
                embedding_function=None,
            )
            model = server.create_collection(
                generation.collection,
                configuration=configuration,
                metadata={
                    "tenant": generation.tenant,
                    "model": generation.model,
                    "config_hash": generation.config_hash,
                },
            )
            return replace(generation, collection_id=opened(server, model).id)

    def prime(self, generation: Generation, *, hold: Hold) -> None:
        """Prepare a collection for the first write after a lease was taken."""
        self.count(generation, seconds=hold())

    def count(self, generation: Generation, *, seconds: float) -> int:
        """Count the documents of a generation."""
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            return collection.count()

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        hold: Hold,
    ) -> None:
        """Bring documents and deletes into the collection, findable as far as Chroma can.

        What was rewritten is looked up by its vector and repaired once; in a tight crowd of nearly
        equal vectors some stay hidden, which verification is for.

        Idempotent. May be called again after any error; until then what was sent may have landed.

        Raises:
            Poison: at least one document is refused for what it is; others may have landed.
            ChromaUnavailable: unknown outcome unless ``sent`` is False.
            Corrupt: the collection is damaged or gone.
            Fenced: the lease was lost before a request was sent.

        """
        if deletes:
            self._delete(generation, deletes, hold)
        for part in _parts(documents):
            self._upsert(generation, part, hold)
            rewritten = [d for d in part if d.rewritten]
            if lost := self._unreachable(generation, rewritten, hold):
                self._delete(generation, [d.memory_id for d in lost], hold)
                self._upsert(generation, lost, hold)

    def control(self, generation: Generation, *, hold: Hold) -> None:
        """Send a write that changes nothing through the log, to learn whether it applies."""
        with self._servers.client(generation.server).collection(generation, hold()) as collection:
            collection.delete(ids=[CONTROL_ID])

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

    def hashes(self, generation: Generation, *, hold: Hold) -> dict[str, str]:
        """Return document id to content hash of all that the collection holds."""
        held: dict[str, str] = {}
        while True:
            client = self._servers.client(generation.server)
            with client.collection(generation, hold()) as collection:
                page: Any = collection.get(limit=PAGE, offset=len(held), include=["metadatas"])
            for name, metadata in zip(page["ids"], page["metadatas"], strict=True):
                held[name] = str((metadata or {}).get("hash", ""))
            if len(page["ids"]) < PAGE:
                return held

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Delete a generation's collection without reading it; nothing where it is gone."""
        try:
            with self._servers.client(generation.server).call(
                seconds, generation=generation.id
            ) as server:
                server.delete_collection(generation.collection)
        except Corrupt:
            return

    def _upsert(self, generation: Generation, documents: Sequence[Document], hold: Hold) -> None:
        texts = [d.text for d in documents if d.text is not None]
        with self._servers.client(generation.server).collection(generation, hold()) as collection:
            collection.upsert(
                ids=[document_id(d.memory_id) for d in documents],
                embeddings=np.stack([d.vector for d in documents]),
                metadatas=[dict(d.metadata) for d in documents],
                documents=texts or None,
            )

    def _delete(self, generation: Generation, ids: Sequence[MemoryId], hold: Hold) -> None:
        with self._servers.client(generation.server).collection(generation, hold()) as collection:
            collection.delete(ids=[document_id(i) for i in ids])

    def _unreachable(
        self, generation: Generation, documents: Sequence[Document], hold: Hold
    ) -> list[Document]:
        """Return those that a query by their own vector does not find, twins apart."""
        if not documents:
            return []
        with self._servers.client(generation.server).collection(generation, hold()) as collection:
            found: Any = collection.query(
                query_embeddings=np.stack([d.vector for d in documents]),
                n_results=NEIGHBOURS,
                include=["distances"],
            )
        return [
            document
            for document, names, distances in zip(
                documents, found["ids"], found["distances"], strict=True
            )
            if document_id(document.memory_id) not in names
            and not (len(distances) == NEIGHBOURS and distances[-1] <= SAME_DISTANCE)
        ]


def _parts(documents: Sequence[Document]) -> list[list[Document]]:
    """Cut documents into writes that are bounded by number and by bytes."""
    parts: list[list[Document]] = []
    size = 0
    for document in documents:
        bytes_more = document.vector.nbytes + 4 * len(document.text or "")
        full = parts and (len(parts[-1]) == DOCUMENTS_A_WRITE or size + bytes_more > BYTES_A_WRITE)
        if not parts or full:
            parts.append([])
            size = 0
        parts[-1].append(document)
        size += bytes_more
    return parts
