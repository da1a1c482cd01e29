"""Collections of documents, in memory, on one server."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from memory_pipeline.chroma.client import CONTROL_ID
from memory_pipeline.chroma.reachability import NEIGHBOURS, SAME_DISTANCE
from memory_pipeline.domain.types import (
    Document,
    Generation,
    Match,
    MemoryId,
    MetadataValue,
    Stored,
    TenantId,
    Vector,
    document_id,
    generation_of,
    memory_id_of,
)
from memory_pipeline.errors import ChromaUnavailable, Corrupt, ServerLost
from memory_pipeline.ports import RenewLease
from memory_pipeline.sync.ports import Index
from memory_pipeline_tests.fakes.documents import cosine_distance, meets, refuse
from memory_pipeline_tests.fakes.world import FakeCollection, FakeDocument, FakeWorld


class QueryableIndex(Index, Protocol):
    """An index that can be searched, too."""

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
        ...


class FakeIndex:
    """Collections of documents on one server; every document is always reachable."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def check_identity(self, server: UUID) -> None:
        """Check the identity of a server. Raises ServerLost."""
        with self.world.step("index.check_identity"):
            if server != self.world.server:
                raise ServerLost(f"no server {server} answers here")

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server of the right identity takes a write now."""
        try:
            with self.world.step("index.takes_writes"):
                return server == self.world.server
        except ChromaUnavailable:
            return False

    def choose_server(self) -> UUID:
        """Choose the server of a new generation."""
        with self.world.step("index.choose_server"):
            return self.world.server

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create the generation's collection; return it with the collection's id."""
        del memories  # decides how a real collection is tuned
        renew()
        with self.world.step("index.create"):
            self._server(generation)
            if generation.collection in self.world.collections:
                raise ChromaUnavailable(f"collection {generation.collection} already exists")
            collection = FakeCollection(self.world.uuid(), tenant=generation.tenant)
            self.world.collections[generation.collection] = collection
            return replace(generation, collection_id=collection.id)

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for the first write after a lease was taken."""
        renew()
        with self.world.step("index.prime"):
            self._collection(generation)

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        add_only: bool = False,
    ) -> None:
        """Bring the documents and deletes into the collection; ``add_only`` displaces nothing."""
        if not documents and not deletes:
            return
        renew()

        def land() -> None:
            self._apply(generation, documents, deletes, add_only=add_only)

        with self.world.step("index.write") as fault:
            self._refuse(generation, documents)
            self._collection(generation)
            if fault is not None and fault.lands == "late":
                self.world.send_late(land)
            else:
                land()

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing and cannot be refused."""
        renew()
        with self.world.step("index.control_write"):
            self._collection(generation).documents.pop(CONTROL_ID, None)

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return documents that no query lists: none, here."""
        renew()
        with self.world.step("index.unreachable"):
            self._collection(generation)
            return []

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return document id to content hash of all that the collection holds."""
        renew()
        with self.world.step("index.hashes"):
            held = self._collection(generation).documents
            return {name: str(d.metadata.get("hash", "")) for name, d in held.items()}

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
        del seconds  # nothing here takes any
        with self.world.step("index.query"):
            matches = [
                Match(memory_id, cosine_distance(vector, found.vector), dict(found.metadata))
                for name, found in self._collection(generation).documents.items()
                if (memory_id := memory_id_of(name)) is not None and meets(found.metadata, where)
            ]
        return sorted(matches, key=lambda m: m.distance)[:limit]

    def count(self, generation: Generation, *, seconds: float) -> int:
        """Count the documents of a generation."""
        del seconds  # nothing here takes any
        with self.world.step("index.count"):
            return len(self._collection(generation).documents)

    def pages(
        self, generation: Generation, *, renew: RenewLease
    ) -> Iterator[list[tuple[str, Mapping[str, MetadataValue]]]]:
        """Walk through the ids and metadata of all documents, a page at a time."""
        renew()
        with self.world.step("index.pages"):
            held = self._collection(generation).documents
            page: list[tuple[str, Mapping[str, MetadataValue]]] = [
                (name, dict(found.metadata)) for name, found in held.items()
            ]
        yield page

    def fetch(
        self,
        generation: Generation,
        ids: Sequence[MemoryId],
        *,
        seconds: float,
        whole: bool = False,
    ) -> dict[MemoryId, Stored]:
        """Return the documents of these memories; with vectors and texts where ``whole``."""
        del seconds  # nothing here takes any
        with self.world.step("index.fetch"):
            held = self._collection(generation).documents
            return {
                i: Stored(
                    dict(found.metadata),
                    found.vector if whole else None,
                    found.text if whole else None,
                )
                for i in ids
                if (found := held.get(document_id(i))) is not None
            }

    def reachable_ids(self, generation: Generation, count: int, *, seconds: float) -> list[str]:
        """Return the ids of all documents that a query can find: all of them, here."""
        del count, seconds  # nothing is lost here, and nothing takes time
        with self.world.step("index.reachable_ids"):
            return list(self._collection(generation).documents)

    def unreachable_by_vector(
        self, generation: Generation, vectors: Mapping[MemoryId, Vector], *, seconds: float
    ) -> set[MemoryId]:
        """Return the memories that a query by their own vector does not find, twins apart."""
        if not vectors:
            return set()
        del seconds  # nothing here takes any
        with self.world.step("index.unreachable_by_vector"):
            held = self._collection(generation).documents
            if len(held) <= NEIGHBOURS:  # a query lists them all
                return {i for i in vectors if document_id(i) not in held}
            return {i for i, vector in vectors.items() if _is_beaten(held, i, vector)}

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Delete some documents of a large collection that has ended: none is large, here."""
        del seconds  # nothing here takes any
        with self.world.step("index.thin_out"):
            self._collection(generation)
            return False

    def generations_of(self, server: UUID, tenant: TenantId, *, seconds: float) -> list[UUID]:
        """Return the generations on a server that are named after a tenant."""
        del seconds  # nothing here takes any
        with self.world.step("index.generations_of"):
            if server != self.world.server:
                raise ServerLost(f"no server {server} answers here")
            named = {n for n, c in self.world.collections.items() if c.tenant == tenant}
            found = [generation_of(name) for name in sorted(named)]
            return [generation for generation in found if generation is not None]

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Delete a generation's collection; nothing where it is gone."""
        del seconds  # nothing here takes any
        with self.world.step("index.drop"):
            self.world.collections.pop(generation.collection, None)

    def _refuse(self, generation: Generation, documents: Sequence[Document]) -> None:
        del generation  # all collections refuse the same, here
        refuse(documents)

    def _server(self, generation: Generation) -> None:
        if generation.server != self.world.server:
            raise ServerLost(f"no server {generation.server} answers here")

    def _collection(self, generation: Generation) -> FakeCollection:
        self._server(generation)
        found = self.world.collections.get(generation.collection)
        if found is None or generation.collection_id not in {None, found.id}:
            raise Corrupt("the collection is gone or another", generation=generation.id)
        return found

    def _apply(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        add_only: bool,
    ) -> None:
        held = self._collection(generation).documents
        for memory_id in deletes:
            held.pop(document_id(memory_id), None)
        for document in documents:
            name = document_id(document.memory_id)
            before = held.get(name)
            if add_only and before is not None:
                continue
            # As Chroma does: what an upsert does not mention stays.
            held[name] = FakeDocument(
                document.vector,
                document.text if document.text is not None or before is None else before.text,
                {**(before.metadata if before else {}), **document.metadata},
            )


def _is_beaten(held: Mapping[str, FakeDocument], memory_id: MemoryId, vector: Vector) -> bool:
    """Whether nearer documents, and not merely twins, keep a document out of its own answer."""
    near = sorted((cosine_distance(vector, d.vector), name) for name, d in held.items())
    near = near[:NEIGHBOURS]
    names = {name for _, name in near}
    return document_id(memory_id) not in names and near[-1][0] > SAME_DISTANCE
