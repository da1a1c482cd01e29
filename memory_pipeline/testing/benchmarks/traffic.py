"""Writers that commit at a steady rate, one statement a commit, and observers of the commits."""

import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from queue import SimpleQueue
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from memory_pipeline.domain.lags import lags_of
from memory_pipeline.domain.types import Memory, MemoryId, TenantId
from memory_pipeline.testing.benchmarks.observer import ChangeKind, Commit, Observer
from memory_pipeline.testing.benchmarks.rows import Load, new_memories
from memory_pipeline.testing.benchmarks.worker_process import (
    delete_memory,
    insert_memory,
    update_memory,
)

SHARES: Mapping[ChangeKind, int] = {"inserts": 6, "updates": 3, "deletes": 1}
MIX = tuple(kind for kind, share in SHARES.items() for _ in range(share))
# With four writers a slow commit delays no other; two observers leave Chroma time to write.
WRITERS, OBSERVERS = 4, 2


class Traffic:
    """One side's writers and observers, and their figures."""

    def __init__(
        self, url: str, collections: Mapping[TenantId, Any], load: Load, rate: float, *, real: bool
    ) -> None:
        self.commits = 0
        self.busy_seconds = self.cpu_seconds = 0.0
        self._url = url
        self._observers = [Observer(collections, self._settle, real=real) for _ in range(OBSERVERS)]
        # All commits of a tenant go to one observer, which queries for them together.
        self._watchers = {t: number % OBSERVERS for number, t in enumerate(collections)}
        self._rate = rate
        self._real = real
        self._lock = threading.Lock()  # of all attributes below
        self._fresh = new_memories(load)
        self._kinds = _mixed()
        # Memories without an unseen change, by tenant: the longest unchanged first.
        self._settled: defaultdict[TenantId, deque[MemoryId]] = defaultdict(deque)
        for number in range(load.rows):
            self._settled[load.tenant(number)].append(MemoryId(number + 1))

    def run(self, seconds: float, *, counts: bool = True) -> None:
        """Commit changes for so long, then wait until all are visible or lost."""
        cpu = time.process_time()
        began = time.monotonic() + 0.1  # until the writers are connected
        moments = [began + number / self._rate for number in range(round(seconds * self._rate))]
        inboxes = [SimpleQueue[Commit | None]() for _ in range(OBSERVERS)]
        with ThreadPoolExecutor(OBSERVERS) as observing, ThreadPoolExecutor(WRITERS) as writing:
            seen = [
                observing.submit(observer.observe, inbox, counts=counts)
                for observer, inbox in zip(self._observers, inboxes, strict=True)
            ]
            try:
                shares = [moments[at::WRITERS] for at in range(WRITERS)]
                for written in [writing.submit(self._write, share, inboxes) for share in shares]:
                    written.result()
            finally:
                for inbox in inboxes:
                    inbox.put(None)
            if counts:
                self.commits += len(moments)
                self.busy_seconds += max(seconds, time.monotonic() - began)
            for watched in seen:
                watched.result()
            if counts:
                self.cpu_seconds += time.process_time() - cpu

    @property
    def lost(self) -> int:
        """Return how many changes were not visible in time, the warm-up included."""
        return sum(observer.lost for observer in self._observers)

    @property
    def errors(self) -> Counter[str]:
        """Return the errors that Chroma answered, with their counts."""
        return sum((observer.errors for observer in self._observers), Counter())

    def taken(self) -> dict[str, list[float]]:
        """Return the lags since the last call, by kind, in seconds."""
        taken = [observer.taken() for observer in self._observers]
        return {kind: [lag for lags in taken for lag in lags[kind]] for kind in SHARES}

    def figures(self) -> dict[str, dict[str, float]]:
        """Return percentiles of the lags since the last call, by kind and over all kinds."""
        kinds = self.taken()
        return {
            k: lag_figures(lags) for k, lags in (kinds | {"all": [*chain(*kinds.values())]}).items()
        }

    def _write(
        self, moments: Sequence[float], inboxes: Sequence[SimpleQueue[Commit | None]]
    ) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            register_vector(connection)
            for moment in moments:
                time.sleep(max(0.0, moment - time.monotonic()))
                commit = self._commit(connection)
                inboxes[self._watchers[commit.memory.tenant]].put(commit)

    def _commit(self, connection: psycopg.Connection) -> Commit:
        with self._lock:
            memory, kind = next(self._fresh), next(self._kinds)
            settled = self._settled[memory.tenant]
            if not settled:
                kind = "inserts"
            memory_id = MemoryId(0) if kind == "inserts" else settled.popleft()
        if self._real:
            memory = _short(memory)
        if kind == "inserts":
            memory_id = insert_memory(connection, memory)
        elif kind == "updates":
            update_memory(connection, memory_id, memory)
        else:
            delete_memory(connection, memory_id)
        return Commit(kind, memory_id, memory, time.monotonic())

    def _settle(self, commit: Commit) -> None:
        """Allow further changes of a memory whose change is visible."""
        if commit.kind != "deletes":
            with self._lock:
                self._settled[commit.memory.tenant].append(commit.memory_id)


def _mixed() -> Iterator[ChangeKind]:
    """Yield kinds endlessly, each ten of them in the shares of the mix, in a seeded order."""
    random = np.random.default_rng(0)
    while True:
        yield from (MIX[at] for at in random.permutation(len(MIX)))


def _short(memory: Memory) -> Memory:
    """Return a memory of one sentence without a vector, which the model has to compute."""
    raw = json.loads(memory.raw)
    del raw["details"]
    return replace(memory, raw=json.dumps(raw), embedding=None)


def lag_figures(lags: Sequence[float]) -> dict[str, float]:
    """Return the count of lags (in seconds) and their percentiles in milliseconds."""
    found = lags_of(lags)
    if found is None:
        return {"changes": 0}
    return {"changes": found.changes} | {f"{k}_ms": v for k, v in found.milliseconds().items()}
