"""What can be read from a collection in Chroma. Writes nothing.

A read that runs while a collection is written to can be torn. Chroma keeps metadata in SQLite and
vectors in a graph and writes one after the other; a query in between fails with the words that
damage has too: during a delete, or during the very first write. The next answer is whole, so such a
read is retried.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

from memory_pipeline.chroma.servers import Servers
from memory_pipeline.domain.types import (
    Generation,
    Match,
    MemoryId,
    MetadataValue,
    Stored,
    Vector,
    document_id,
    memory_id_of,
)
from memory_pipeline.errors import Corrupt
from memory_pipeline.ports import RenewLease

# Far below SQLite's limit of 32,766 variables, of which Chroma spends one per row; larger pages
# take twice as long per row.
PAGE = 5_000

TORN_SIGNS = ("Error finding id", "Error getting embedding", "Nothing found on disk")
# In seconds. A write of 250 documents is between the two halves for a third of a second.
PAUSES = (0.02, 0.1, 0.4)

Read = TypeVar("Read", bound=Callable[..., Any])


def retry_if_torn(*pauses: float) -> Callable[[Read], Read]:
    """Retry a read whose answer was torn, after each pause; the next torn answer is damage."""
    decorator: Callable[[Any], Any] = retry(
        retry=retry_if_exception(_is_torn),
        wait=wait_chain(*map(wait_fixed, pauses)),
        stop=stop_after_attempt(len(pauses) + 1),
        reraise=True,
    )
    return decorator


def _is_torn(error: BaseException) -> bool:
    return isinstance(error, Corrupt) and any(sign in str(error) for sign in TORN_SIGNS)


retry_torn_reads = retry_if_torn(*PAUSES)


class Reads:
    """Reads and queries generations, each on its server.

    Every read raises ChromaUnavailable, or Corrupt where the collection is damaged or gone.
    ``seconds`` is the time limit of the call. ``renew`` renews the lease before each call and
    returns its time limit; it raises Fenced.
    """

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
        # Rounding takes a distance below zero, and 0.0 to -0.0.
        return [
            Match(memory_id, min(max(0.0, float(distance)), 2.0), metadata or {})
            for name, distance, metadata in matches
            if (memory_id := memory_id_of(name)) is not None
        ]

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return the content hash of every document by its id."""
        return {
            name: str(metadata.get("hash", ""))
            for page in self.pages(generation, renew=renew)
            for name, metadata in page
        }

    def pages(
        self, generation: Generation, *, renew: RenewLease
    ) -> Iterator[list[tuple[str, Mapping[str, MetadataValue]]]]:
        """Yield the id and metadata of every document, a page at a time.

        While the collection is written to, a page may miss a document or repeat one.
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
        """Return what is stored for these memories; ``whole``: with vectors and texts."""
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
