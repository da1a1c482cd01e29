"""Collections of documents in Chroma, one a generation. Handles Chroma as it is.

What is done here and why (measured on 1.5.9):

- prime: the first read of a collection after writes makes the next write replay everything since
  the last save (4 s at 4,000 rows); a ``count()`` before the first write avoids it.
- look up what was rewritten: an upsert that changes a vector leaves 1 to 2 % of them unreachable
  for ever; delete + upsert for all leaves a gap that 13 % of searches saw. So: upsert, ask for
  each changed vector, and only those that are not found are deleted and upserted again.
- no list metadata, no embedding function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from memory_pipeline.chroma.client import CONTROL_ID, opened
from memory_pipeline.chroma.marker import INSTALLATION_KEY
from memory_pipeline.chroma.reads import Reads
from memory_pipeline.domain.types import (
    Document,
    Generation,
    MemoryId,
    document_id,
    generation_of,
)
from memory_pipeline.errors import Corrupt
from memory_pipeline.ports import RenewLease

# A larger write delays every other tenant of the server: 250 rows take about 0.3 s.
DOCUMENTS_A_WRITE = 250
COLLECTIONS_A_PAGE = 1_000
BYTES_A_WRITE = 8_000_000
# Rows not yet saved stay in one queue that every write of the server scans; saving costs more
# the larger the collection is. And with Chroma's own graph (16 neighbours, 100 looked at) 45 of
# 50,000 are found by no search, 17 of 1,000 not by their own vector; with this one, none. Adding a
# vector costs half as much again, which small collections need not pay.
LARGE_TENANT = 5_000
HNSW_SMALL: Mapping[str, int] = {"sync_threshold": 200}
HNSW_LARGE: Mapping[str, int] = {
    "sync_threshold": 2_000,
    "max_neighbors": 32,
    "ef_construction": 200,
}
# Dropping so many documents holds the server up for 0.2 s.
DROPPED_AT_ONCE = 2_000


class ChromaIndex(Reads):
    """Writes and queries generations on whichever server each lives."""

    def check_identity(self, server: UUID) -> None:
        """Check a server's marker again. Raises ServerLost or ChromaUnavailable."""
        self._servers.check_identity(server)

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server that is who it should be takes a write now."""
        return self._servers.takes_writes(server)

    def servers(self) -> list[UUID]:
        """Return the servers that can be used now. Raises ChromaUnavailable when there is none."""
        self._servers.check_identity()
        return self._servers.usable()

    def choose_server(self) -> UUID:
        """Choose the server of a new generation."""
        return self._servers.for_new_generation()

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create the generation's collection; return the generation with the collection's id."""
        client = self._servers.client(generation.server)
        with client.call(renew(), generation=generation.id) as server:
            from chromadb.api.collection_configuration import (  # noqa: PLC0415 - chromadb is slow
                CreateCollectionConfiguration,
            )

            configuration = CreateCollectionConfiguration(
                hnsw=hnsw_of(memories),
                embedding_function=None,
            )
            model = server.create_collection(
                generation.collection,
                configuration=configuration,
                metadata={
                    "tenant": generation.tenant,
                    "model": generation.model,
                    "config_hash": generation.config_hash,
                    INSTALLATION_KEY: str(self._servers.installation()),
                },
            )
            return replace(generation, collection_id=opened(server, model).id)

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for the first write after a lease was taken."""
        self.count(generation, seconds=renew())

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        add_only: bool = False,
    ) -> None:
        """Bring documents and deletes into the collection, findable as far as Chroma can.

        ``add_only``: the documents are new to the collection and are added in one request (the
        first small write after such a load costs a tenth of what it costs after upserts); a
        document that exists already stays as it is. Otherwise, what was rewritten is looked up by
        its vector and repaired once; in a tight crowd of nearly equal vectors some stay
        unreachable, which verification is for.

        Idempotent. May be called again after any error; until then what was sent may have landed.

        Raises:
            Poison: at least one document is refused for what it is; others may have landed.
            ChromaUnavailable: unknown outcome unless ``sent`` is False.
            Corrupt: the collection is damaged or gone.
            Fenced: the lease was lost before a request was sent.

        """
        if deletes:
            self._delete(generation, deletes, renew)
        for part in _parts(documents, len(documents) if add_only else DOCUMENTS_A_WRITE):
            self._send(generation, part, renew, add_only=add_only)
            if add_only:
                continue
            rewritten = [d for d in part if d.rewritten]
            if lost := self._unreachable(generation, rewritten, renew):
                self._delete(generation, [d.memory_id for d in lost], renew)
                self._send(generation, lost, renew)

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing through the log, to learn whether it applies."""
        with self._servers.client(generation.server).collection(generation, renew()) as collection:
            collection.delete(ids=[CONTROL_ID])

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Delete some documents of a large collection that has ended; False once it is small.

        Nobody waits for long for so few, as everybody would for all of them at once.
        """
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            if collection.count() <= DROPPED_AT_ONCE:
                return False
            some: Any = collection.get(limit=DOCUMENTS_A_WRITE, include=[])
            collection.delete(ids=some["ids"])
        return True

    def generations(self, server: UUID, installation: UUID, *, seconds: float) -> list[UUID]:
        """Return the generations of an installation that have a collection on this server."""
        models: list[Any] = []
        with self._servers.client(server).call(seconds) as connected:
            while page := connected.list_collections(COLLECTIONS_A_PAGE, len(models)):
                models += page
        return [
            generation
            for model in models
            if (model.metadata or {}).get(INSTALLATION_KEY) == str(installation)
            and (generation := generation_of(model.name)) is not None
        ]

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Delete a generation's collection without reading it; nothing where it is gone.

        The whole server waits for it, searches too: a second for 10,000 documents.
        """
        try:
            with self._servers.client(generation.server).call(
                seconds, generation=generation.id
            ) as server:
                server.delete_collection(generation.collection)
        except Corrupt:
            return

    def _send(
        self,
        generation: Generation,
        documents: Sequence[Document],
        renew: RenewLease,
        *,
        add_only: bool = False,
    ) -> None:
        texts = [d.text for d in documents if d.text is not None]
        with self._servers.client(generation.server).collection(generation, renew()) as collection:
            # Not by the collection's own method: that looks at every key and value once more.
            server = collection._client  # noqa: SLF001
            (server._add if add_only else server._upsert)(  # noqa: SLF001
                collection_id=collection.id,
                ids=[document_id(d.memory_id) for d in documents],
                embeddings=[d.vector for d in documents],
                metadatas=[dict(d.metadata) for d in documents],
                documents=texts or None,
            )

    def _delete(self, generation: Generation, ids: Sequence[MemoryId], renew: RenewLease) -> None:
        with self._servers.client(generation.server).collection(generation, renew()) as collection:
            collection.delete(ids=[document_id(i) for i in ids])

    def _unreachable(
        self, generation: Generation, documents: Sequence[Document], renew: RenewLease
    ) -> list[Document]:
        if not documents:
            return []
        vectors = {d.memory_id: d.vector for d in documents}
        lost = self.unreachable_by_vector(generation, vectors, seconds=renew())
        return [d for d in documents if d.memory_id in lost]


def hnsw_of(memories: int) -> Any:
    """Return Chroma's settings for a collection of so many."""
    return {"space": "cosine", **(HNSW_LARGE if memories >= LARGE_TENANT else HNSW_SMALL)}


def _parts(documents: Sequence[Document], most: int) -> list[list[Document]]:
    """Cut documents into writes that are bounded by number and by bytes."""
    parts: list[list[Document]] = []
    size = 0
    for document in documents:
        bytes_more = document.vector.nbytes + 4 * len(document.text or "")
        full = parts and (len(parts[-1]) == most or size + bytes_more > BYTES_A_WRITE)
        if not parts or full:
            parts.append([])
            size = 0
        parts[-1].append(document)
        size += bytes_more
    return parts
