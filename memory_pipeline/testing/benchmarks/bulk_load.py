"""Bulk loading: documents in memory → Chroma's own client → ``chroma run``.

Of the pipeline's code for Chroma only the configuration of its collections is used.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from memory_pipeline.chroma.index import hnsw_of
from memory_pipeline.domain.types import TenantId
from memory_pipeline.testing.benchmarks.rows import Documents
from memory_pipeline.testing.chroma_client import connect


@dataclass(frozen=True, slots=True)
class LoadMethod:
    """How to load: threads a server, documents a request."""

    threads: int
    batch: int


@dataclass(frozen=True, slots=True)
class LoadRate:
    """The speed of one method; the time includes the creation of the collections."""

    method: LoadMethod
    servers: int
    documents: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Return the documents a second of wall time."""
        return self.documents / self.seconds


def load_documents(
    urls: Sequence[str], tenants: Sequence[Documents], method: LoadMethod
) -> LoadRate:
    """Load documents into new collections, one a tenant, spread over servers and threads.

    1. create the collections and prime each with ``count()``
    2. add, ``method.threads`` at once on each server; one thread loads all of a tenant, unless
       there are fewer tenants than threads
    3. after the time is taken: count, because a missing document was not loaded

    Raises:
        RuntimeError: a collection does not hold every document that was sent.

    """
    clients = [connect(url) for url in urls]  # imports chromadb, which takes a second
    shares = _deal(tenants, len(urls))
    began = time.perf_counter()
    collections = {
        one.tenant: _create(client, one)
        for client, share in zip(clients, shares, strict=True)
        for one in share
    }
    lanes = [lane for share in shares for lane in _lanes(share, method)]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for done in [pool.submit(_send, collections, lane) for lane in lanes]:
            done.result()
    seconds = time.perf_counter() - began
    for one in tenants:
        if (count := collections[one.tenant].count()) != len(one):
            raise RuntimeError(f"{count} of {len(one)} documents of {one.tenant} were loaded")
    return LoadRate(method, len(urls), sum(map(len, tenants)), seconds)


def collection_name(tenant: TenantId) -> str:
    """Return the name of the collection that ``load_documents`` creates for a tenant."""
    return f"limit-{tenant}"


def _deal(tenants: Sequence[Documents], shares: int) -> list[list[Documents]]:
    """Spread tenants over shares, the largest first, each to the share with least documents."""
    dealt: list[list[Documents]] = [[] for _ in range(shares)]
    for one in sorted(tenants, key=len, reverse=True):
        min(dealt, key=lambda share: sum(map(len, share))).append(one)
    return dealt


def _lanes(share: Sequence[Documents], method: LoadMethod) -> list[list[Documents]]:
    """Cut a server's share into requests, in the order in which each thread sends them."""
    if len(share) < method.threads:
        requests = [part for one in share for part in _batches(one, method.batch)]
        return [requests[at :: method.threads] for at in range(method.threads)]
    return [
        [part for one in tenants for part in _batches(one, method.batch)]
        for tenants in _deal(share, method.threads)
    ]


def _batches(one: Documents, batch: int) -> list[Documents]:
    return [one.part(first, first + batch) for first in range(0, len(one), batch)]


def _send(collections: Mapping[TenantId, Any], lane: Sequence[Documents]) -> None:
    for part in lane:
        collections[part.tenant].add(
            ids=part.ids,
            embeddings=part.embeddings,
            metadatas=part.metadatas,
            documents=part.texts,
        )


def _create(client: Any, one: Documents) -> Any:
    """Create a tenant's collection as ``ChromaIndex.create`` does, and prime it."""
    from chromadb.api.collection_configuration import (  # noqa: PLC0415
        CreateCollectionConfiguration,
    )

    collection = client.create_collection(
        collection_name(one.tenant),
        configuration=CreateCollectionConfiguration(
            hnsw=hnsw_of(one.tenant_size),
            embedding_function=None,
        ),
        embedding_function=None,
    )
    collection.count()
    return collection
