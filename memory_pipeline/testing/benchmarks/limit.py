"""The limit of bulk loading: documents in memory → chromadb's own client → ``chroma run``.

A rebuild reads, composes, checks and proves besides, and is measured against this. Nothing of the
pipeline's own way to Chroma is used but the configuration of its collections.

It runs in a process of its own, so that its documents do not count as the rebuild's memory.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from memory_pipeline.chroma.index import hnsw_of
from memory_pipeline.content.document import Recipe
from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.testing.benchmarks.rows import Documents, Load, documents

THREADS = (1, 2, 4)
BATCHES = (250, 1000, 2000)
# Enough to tell ways apart, and loaded in some three seconds.
TRIAL_DOCUMENTS = 3000
TRIAL_TENANTS = 6
# Single runs differ by a fifth on a machine that others share.
TRIAL_ROUNDS = 2
NAIVE_DOCUMENTS = 300
# A benchmark that waits longer than this for one batch measures something else.
REQUEST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class LoadMethod:
    """A way to load: how many threads a server, how many documents a request."""

    threads: int
    batch: int


# What a first script does: one request a row.
NAIVE = LoadMethod(threads=1, batch=1)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast documents were loaded in one way; making the collections is part of the time."""

    way: LoadMethod
    servers: int
    documents: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Documents a second of wall time."""
        return self.documents / self.seconds


@dataclass(frozen=True, slots=True)
class LoadLimit:
    """Measures in a process of its own, each time on fresh servers below ``home``.

    The documents are made there, once.
    """

    home: Path
    load: Load
    recipe: Recipe
    _process: ProcessPoolExecutor

    def trials(self, *, servers: int = 1, rounds: int = TRIAL_ROUNDS) -> list[Rate]:
        """Try every way on a part of the documents; return the medians, the fastest way first."""
        call = self._process.submit(_trials, self.home, self.load, self.recipe, servers, rounds)
        return call.result()

    def rate(self, way: LoadMethod, *, servers: int = 1) -> Rate:
        """Load all documents in this way."""
        call = self._process.submit(_rate, self.home, self.load, self.recipe, servers, way)
        return call.result()

    def naive(self) -> Rate:
        """Load a few hundred documents with a request for each."""
        return self._process.submit(_naive, self.home, self.load, self.recipe).result()


@contextmanager
def limit_of(home: Path, load: Load, recipe: Recipe) -> Iterator[LoadLimit]:
    """Lend a process that measures the limit for this load, and end it."""
    spawn = multiprocessing.get_context("spawn")  # a fork would count the parent's memory as well
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
        yield LoadLimit(home, load, recipe, process)


def load_documents(urls: Sequence[str], tenants: Sequence[Documents], way: LoadMethod) -> Rate:
    """Load documents into new collections, one a tenant, tenants dealt out to servers and threads.

    1. create the collections and prime each with ``count()``
    2. add, ``way.threads`` at once on each server; a tenant is one thread's, unless there are fewer
       tenants than threads
    3. after the clock has stopped: count, for what is not there was not loaded

    Raises:
        RuntimeError: a collection does not hold what was sent.

    """
    clients = [connect(url) for url in urls]  # imports chromadb, which takes a second
    shares = _deal(tenants, len(urls))
    began = time.perf_counter()
    collections = {
        one.tenant: _create(client, one)
        for client, share in zip(clients, shares, strict=True)
        for one in share
    }
    lanes = [lane for share in shares for lane in _lanes(share, way)]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for done in [pool.submit(_add, collections, lane) for lane in lanes]:
            done.result()
    seconds = time.perf_counter() - began
    for one in tenants:
        if (count := collections[one.tenant].count()) != len(one):
            raise RuntimeError(f"{count} of {len(one)} documents of {one.tenant} were loaded")
    return Rate(way, len(urls), sum(map(len, tenants)), seconds)


@contextmanager
def fresh_servers(home: Path, count: int) -> Iterator[list[str]]:
    """Start servers without data, lend their addresses, stop them and delete what they wrote."""
    with tempfile.TemporaryDirectory(prefix="limit-", dir=home) as folder, ExitStack() as running:
        urls: list[str] = []
        for number in range(count):
            place = Path(folder) / f"chroma-{number}"
            server = start_chroma(place, place.with_suffix(".log"))
            running.callback(server.stop)
            urls.append(server.url)
        yield urls


def connect(url: str, *, seconds: float = REQUEST_SECONDS) -> Any:
    """Return Chroma's own client, which waits no longer than is meant for one batch."""
    import chromadb  # noqa: PLC0415 - slow, and the process that reports the rebuild needs none
    from chromadb.config import Settings  # noqa: PLC0415

    parts = urlsplit(url)
    client: Any = chromadb.HttpClient(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 8000,
        settings=Settings(anonymized_telemetry=False),
    )
    client._server._session.timeout = seconds  # noqa: SLF001 - the library sets none
    return client


def collection_name(tenant: TenantId) -> str:
    """Name the collection that ``load_documents`` makes for a tenant."""
    return f"limit-{tenant}"


@cache
def _documents(load: Load, recipe: Recipe) -> tuple[Documents, ...]:
    return tuple(documents(load, recipe))


def _rate(home: Path, load: Load, recipe: Recipe, servers: int, way: LoadMethod) -> Rate:
    return _measure(home, _documents(load, recipe), servers, way)


def _naive(home: Path, load: Load, recipe: Recipe) -> Rate:
    return _measure(home, _some(_documents(load, recipe), NAIVE_DOCUMENTS), 1, NAIVE)


def _trials(home: Path, load: Load, recipe: Recipe, servers: int, rounds: int) -> list[Rate]:
    """Try all ways in turns, back and forth: what changes on the machine meets every way."""
    part = _some(_documents(load, recipe), TRIAL_DOCUMENTS)
    ways = _ways(max(map(len, part)))
    rates: defaultdict[LoadMethod, list[Rate]] = defaultdict(list)
    for turn in range(rounds):
        for way in ways[:: -1 if turn % 2 else 1]:
            rates[way].append(_measure(home, part, servers, way))
    medians = [
        Rate(way, servers, of[0].documents, statistics.median(rate.seconds for rate in of))
        for way, of in rates.items()
    ]
    return sorted(medians, key=lambda rate: rate.seconds)


def _ways(largest: int) -> list[LoadMethod]:
    """List the ways that differ: a batch beyond the largest tenant is no other batch."""
    batches = [b for b, smaller in zip(BATCHES, (0, *BATCHES), strict=False) if smaller < largest]
    return [LoadMethod(threads, batch) for threads, batch in product(THREADS, batches)]


def _some(tenants: Sequence[Documents], count: int) -> list[Documents]:
    few = tenants[:TRIAL_TENANTS]
    return [one.part(0, count // len(few)) for one in few]


def _measure(home: Path, tenants: Sequence[Documents], servers: int, way: LoadMethod) -> Rate:
    with fresh_servers(home, servers) as urls:
        return load_documents(urls, tenants, way)


def _deal(tenants: Sequence[Documents], hands: int) -> list[list[Documents]]:
    """Deal tenants out, the largest first, each to the hand that holds least."""
    dealt: list[list[Documents]] = [[] for _ in range(hands)]
    for one in sorted(tenants, key=len, reverse=True):
        min(dealt, key=lambda hand: sum(map(len, hand))).append(one)
    return dealt


def _lanes(share: Sequence[Documents], way: LoadMethod) -> list[list[Documents]]:
    """Cut a server's share into requests, in the order in which each thread sends them."""
    if len(share) < way.threads:
        requests = [part for one in share for part in _parts(one, way.batch)]
        return [requests[at :: way.threads] for at in range(way.threads)]
    return [
        [part for one in hand for part in _parts(one, way.batch)]
        for hand in _deal(share, way.threads)
    ]


def _parts(one: Documents, batch: int) -> list[Documents]:
    return [one.part(first, first + batch) for first in range(0, len(one), batch)]


def _add(collections: Mapping[TenantId, Any], lane: Sequence[Documents]) -> None:
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
