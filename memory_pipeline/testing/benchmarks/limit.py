"""The limit that a rebuild is measured against: bulk loading of the same documents from memory.

A rebuild also reads, composes, checks and proves. The limit is measured in a process of its own, so
that its documents do not count as memory of the rebuild.
"""

import multiprocessing
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from memory_pipeline.content.document import Recipe
from memory_pipeline.testing.benchmarks.bulk_load import LoadMethod, LoadRate, load_documents
from memory_pipeline.testing.benchmarks.rows import Documents, Load, documents
from memory_pipeline.testing.benchmarks.services import fresh_servers

THREADS = (1, 2, 4)
BATCHES = (250, 1000, 2000)
# Enough to distinguish the methods, and loaded in about three seconds.
TRIAL_DOCUMENTS = 3000
TRIAL_TENANTS = 6
# On a shared machine single runs differ by a fifth.
TRIAL_ROUNDS = 2
NAIVE_DOCUMENTS = 300
# The method of a first script: one request a row.
NAIVE = LoadMethod(threads=1, batch=1)


@dataclass(frozen=True, slots=True)
class LoadLimit:
    """Measures in a process of its own, each time on fresh servers below ``home``.

    The documents are made in that process, once.
    """

    home: Path
    load: Load
    recipe: Recipe
    _process: ProcessPoolExecutor

    def trials(self, *, servers: int = 1, rounds: int = TRIAL_ROUNDS) -> list[LoadRate]:
        """Try every method on a part of the documents; return the medians, the fastest first."""
        call = self._process.submit(
            _try_methods, self.home, self.load, self.recipe, servers, rounds
        )
        return call.result()

    def rate(self, method: LoadMethod, *, servers: int = 1) -> LoadRate:
        """Load all documents by a method."""
        call = self._process.submit(_load_all, self.home, self.load, self.recipe, servers, method)
        return call.result()

    def naive(self) -> LoadRate:
        """Load a few hundred documents, one request each."""
        return self._process.submit(_load_naively, self.home, self.load, self.recipe).result()


@contextmanager
def load_limit(home: Path, load: Load, recipe: Recipe) -> Iterator[LoadLimit]:
    """Yield a process that measures the limit for this load, and end it."""
    spawn = multiprocessing.get_context("spawn")  # a fork would count the parent's memory as well
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
        yield LoadLimit(home, load, recipe, process)


@cache
def _all_documents(load: Load, recipe: Recipe) -> tuple[Documents, ...]:
    return tuple(documents(load, recipe))


def _load_all(home: Path, load: Load, recipe: Recipe, servers: int, method: LoadMethod) -> LoadRate:
    return _measure(home, _all_documents(load, recipe), servers, method)


def _load_naively(home: Path, load: Load, recipe: Recipe) -> LoadRate:
    return _measure(home, _first(_all_documents(load, recipe), NAIVE_DOCUMENTS), 1, NAIVE)


def _try_methods(
    home: Path, load: Load, recipe: Recipe, servers: int, rounds: int
) -> list[LoadRate]:
    """Try all methods in turns, back and forth: changes of the machine affect all of them."""
    part = _first(_all_documents(load, recipe), TRIAL_DOCUMENTS)
    methods = _methods(max(map(len, part)))
    rates: defaultdict[LoadMethod, list[LoadRate]] = defaultdict(list)
    for turn in range(rounds):
        for method in methods[:: -1 if turn % 2 else 1]:
            rates[method].append(_measure(home, part, servers, method))
    medians = [
        LoadRate(
            method, servers, runs[0].documents, statistics.median(rate.seconds for rate in runs)
        )
        for method, runs in rates.items()
    ]
    return sorted(medians, key=lambda rate: rate.seconds)


def _methods(largest: int) -> list[LoadMethod]:
    """Return the methods that differ: batches larger than every tenant are all the same."""
    batches = [b for b, smaller in zip(BATCHES, (0, *BATCHES), strict=False) if smaller < largest]
    return [LoadMethod(threads, batch) for threads, batch in product(THREADS, batches)]


def _first(tenants: Sequence[Documents], count: int) -> list[Documents]:
    few = tenants[:TRIAL_TENANTS]
    return [one.part(0, count // len(few)) for one in few]


def _measure(
    home: Path, tenants: Sequence[Documents], servers: int, method: LoadMethod
) -> LoadRate:
    with fresh_servers(home, servers) as urls:
        return load_documents(urls, tenants, method)
