"""Writes documents into collections in Chroma, one collection per generation.

Chroma is handled as it is (measured on 1.5.9):

- prime: the first read of a collection after writes makes the next write replay everything since
  the last save (4 s at 4,000 rows); a ``count()`` before the first write avoids it.
- query what was rewritten: an upsert that changes a vector leaves 1 to 2 % of the documents
  unreachable for good (reachability.py); delete + upsert for all leaves a gap that 13 % of searches
  saw. So: upsert, query by each changed vector, and delete and upsert again only the documents that
  are not found.
- lists in metadata: those of a dropped collection stay in Chroma's file, and come back under the
  row of another document that has no value under their key. So every document has a value under
  every key of its recipe, which replaces them; documents with lists are deleted before their
  collection is dropped; and verify takes no such list for a difference.
- no embedding function: one stored by a stranger could run code here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from memory_pipeline.chroma.client import CONTROL_ID, opened
from memory_pipeline.chroma.marker import INSTALLATION_KEY
from memory_pipeline.chroma.reachability import Reachability
from memory_pipeline.domain.types import (
    Document,
    Generation,
    MemoryId,
    MetadataValue,
    TenantId,
    document_id,
    generation_of,
)
from memory_pipeline.errors import Corrupt
from memory_pipeline.ports import RenewLease

# By this a collection of a tenant is found whatever the registry says.
TENANT_KEY = "tenant"
# A write delays every other tenant of the server: 250 rows take about 0.3 s.
DOCUMENTS_A_WRITE = 250
COLLECTIONS_A_PAGE = 1_000
BYTES_A_WRITE = 8_000_000
# sync_threshold: every write of the server scans the queue of rows that are not saved yet; saving
# costs more the larger the collection is.
# The graph: with Chroma's own (16 neighbours, 100 compared) 45 of 50,000 documents are found by no
# query and 17 of 1,000 not by their own vector; with this one, none. Adding a vector costs half as
# much again, which small collections need not pay.
LARGE_TENANT = 5_000
HNSW_SMALL: Mapping[str, int] = {"sync_threshold": 200}
HNSW_LARGE: Mapping[str, int] = {
    "sync_threshold": 2_000,
    "max_neighbors": 32,
    "ef_construction": 200,
}
# Dropping this many documents blocks the server for 0.2 s.
DROPPED_AT_ONCE = 2_000


class ChromaIndex(Reachability):
    """Writes, reads and queries generations, each on its server. Thread-safe.

    ``renew`` renews the tenant's lease before each call and returns the seconds that this call may
    take; it raises Fenced, and then nothing was sent.
    """

    def check_identity(self, server: UUID) -> None:
        """Check a server's marker again. Raises ServerLost or ChromaUnavailable."""
        self._servers.check_identity(server)

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server is identified and accepts a write now."""
        return self._servers.takes_writes(server)

    def servers(self) -> list[UUID]:
        """Return the servers that can be used now. Raises ChromaUnavailable when there is none."""
        self._servers.check_identity()
        return self._servers.usable()

    def choose_server(self) -> UUID:
        """Choose the server of a new generation. Raises ChromaUnavailable where none is usable."""
        return self._servers.choose_server()

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
                    TENANT_KEY: generation.tenant,
                    "model": generation.model,
                    "config_hash": generation.config_hash,
                    INSTALLATION_KEY: str(self._servers.installation()),
                },
            )
            return replace(generation, collection_id=opened(server, model).id)

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for the first write after a lease was acquired."""
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
        """Write documents and deletes, and see that queries find the rewritten documents.

        ``add_only``: the documents are new to the collection and are added in one request (the
        first small write after such a load costs a tenth of what it costs after upserts); a
        document that the collection already has stays as it is. Otherwise, rewritten documents are
        queried by their vectors, and unreachable ones are deleted and written again, once. Among
        many nearly equal vectors some stay unreachable; verify finds those.

        Idempotent. May be called again after any error; what was sent before may have landed, or
        may still land.

        Raises:
            Poison: at least one document is refused for what it is; others may have landed.
            ChromaUnavailable: the outcome is unknown unless ``sent`` is False.
            Corrupt: the collection is damaged or gone.
            Fenced: the lease was lost before a request was sent.

        """
        if deletes:
            self._delete(generation, deletes, renew)
        for batch in cut_into_writes(documents, len(documents) if add_only else DOCUMENTS_A_WRITE):
            self._send(generation, batch, renew, add_only=add_only)
            if add_only:
                continue
            rewritten = [d for d in batch if d.rewritten]
            if missed := self.unreachable_among(generation, rewritten, renew=renew):
                self._delete(generation, [d.memory_id for d in missed], renew)
                self._send(generation, missed, renew)

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing, to learn whether writes work. Raises as ``write``."""
        with self._servers.client(generation.server).collection(generation, renew()) as collection:
            collection.delete(ids=[CONTROL_ID])

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Delete some documents of a collection before it is dropped; False once it can be.

        Of a large one any: a few at a time block the server's other tenants briefly; all at once,
        for seconds. Of a small one those with lists, which would stay in Chroma's file.
        """
        with self._servers.client(generation.server).collection(generation, seconds) as collection:
            if collection.count() > DROPPED_AT_ONCE:
                page: Any = collection.get(limit=DOCUMENTS_A_WRITE, include=[])
                ids = page["ids"]
            else:
                page = collection.get(limit=DROPPED_AT_ONCE, include=["metadatas"])
                held = zip(page["ids"], page["metadatas"], strict=True)
                ids = [name for name, metadata in held if list_characters(metadata or {})]
            if ids:
                collection.delete(ids=ids[:DOCUMENTS_A_WRITE])
        return bool(ids)

    def generations(self, server: UUID, installation: UUID, *, seconds: float) -> list[UUID]:
        """Return the generations of an installation that have a collection on this server."""
        listed = self._listed(server, seconds=seconds)
        return [g for g, metadata in listed if metadata.get(INSTALLATION_KEY) == str(installation)]

    def generations_of(self, server: UUID, tenant: TenantId, *, seconds: float) -> list[UUID]:
        """Return this installation's generations on a server that are named after a tenant."""
        ours = str(self._servers.installation())
        return [
            generation
            for generation, metadata in self._listed(server, seconds=seconds)
            if metadata.get(INSTALLATION_KEY) == ours and metadata.get(TENANT_KEY) == tenant
        ]

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Delete a generation's collection without reading it; do nothing where it is gone.

        It blocks the whole server, searches too: a second for 10,000 documents.
        """
        try:
            with self._servers.client(generation.server).call(
                seconds, generation=generation.id
            ) as server:
                server.delete_collection(generation.collection)
        except Corrupt:
            return

    def _listed(self, server: UUID, *, seconds: float) -> list[tuple[UUID, Mapping[str, Any]]]:
        """Return the generation and the metadata of every collection of the pipeline."""
        models: list[Any] = []
        with self._servers.client(server).call(seconds) as connected:
            while page := connected.list_collections(COLLECTIONS_A_PAGE, len(models)):
                models += page
        named = [(generation_of(model.name), model.metadata or {}) for model in models]
        return [(generation, metadata) for generation, metadata in named if generation is not None]

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
            # The collection's own method would validate every key and value once more.
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


def hnsw_of(memories: int) -> Any:
    """Return Chroma's settings for a collection of this many memories."""
    return {"space": "cosine", **(HNSW_LARGE if memories >= LARGE_TENANT else HNSW_SMALL)}


def cut_into_writes(documents: Sequence[Document], limit: int) -> list[list[Document]]:
    """Cut documents into writes of at most ``limit`` documents and BYTES_A_WRITE bytes.

    A document that is larger by itself is a write of its own.
    """
    writes: list[list[Document]] = []
    size = 0
    for document in documents:
        characters = len(document.text or "") + list_characters(document.metadata)
        bytes_more = document.vector.nbytes + 4 * characters
        if not writes or len(writes[-1]) == limit or size + bytes_more > BYTES_A_WRITE:
            writes.append([])
            size = 0
        writes[-1].append(document)
        size += bytes_more
    return writes


def list_characters(metadata: Mapping[str, MetadataValue]) -> int:
    """Count the characters of the lists in metadata, at most; 0: there is no list.

    Its single values are few and short.
    """
    lists = (value for value in metadata.values() if isinstance(value, list))
    return sum(len(str(value)) + 4 for held in lists for value in held)
