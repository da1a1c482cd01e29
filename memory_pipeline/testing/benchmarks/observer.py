"""Queries Chroma with its own client until it shows each commit, and records how long that took.

Of the pipeline it knows only the names of documents and the collection of each tenant.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Literal

from chromadb.errors import InternalError

from memory_pipeline.domain.types import Memory, MemoryId, TenantId, Vector, document_id

# The pause between two rounds of queries, times the pending changes up to a maximum: with many of
# them, fewer queries leave the cores to the process that is measured.
POLL_SECONDS, MOST_WEIGHED = 0.002, 10
LOST_SECONDS = 30.0
NEIGHBOURS = 10
ERROR_LENGTH = 80

ChangeKind = Literal["inserts", "updates", "deletes"]


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """A committed change; ``at``: its moment, by the monotonic clock."""

    kind: ChangeKind
    memory_id: MemoryId
    memory: Memory
    at: float


class Observer:
    """Waits for changes to be visible, in one thread at a time, and records their lags.

    ``lags`` are in seconds; ``lost`` changes are in none of them. ``settle`` is called with each
    visible change. With ``real``, vectors are computed by the pipeline: they are read before a
    query.
    """

    def __init__(
        self,
        collections: Mapping[TenantId, Any],
        settle: Callable[[Commit], None],
        *,
        real: bool,
    ) -> None:
        self.lags: defaultdict[ChangeKind, list[float]] = defaultdict(list)
        self.lost = 0
        self.errors: Counter[str] = Counter()
        self._collections = collections
        self._settle = settle
        self._real = real

    def taken(self) -> defaultdict[ChangeKind, list[float]]:
        """Return the lags since the last call."""
        taken, self.lags = self.lags, defaultdict(list)
        return taken

    def observe(self, inbox: SimpleQueue[Commit | None], *, counts: bool) -> None:
        """Query for commits, one request at a time, until each of them is visible or lost."""
        waiting: list[Commit] = []
        more = True
        while more or waiting:
            more = more and _receive(inbox, waiting)
            for tenant in dict.fromkeys(commit.memory.tenant for commit in waiting):
                mine = [commit for commit in waiting if commit.memory.tenant == tenant]
                for commit, at in self._seen(tenant, mine):
                    waiting.remove(commit)
                    if counts:
                        self.lags[commit.kind].append(at - commit.at)
                    self._settle(commit)
            for commit in [c for c in waiting if time.monotonic() - c.at > LOST_SECONDS]:
                waiting.remove(commit)
                self.lost += 1
            time.sleep(POLL_SECONDS * min(len(waiting), MOST_WEIGHED))

    def _seen(self, tenant: TenantId, commits: Sequence[Commit]) -> Iterator[tuple[Commit, float]]:
        """Query once; yield visible commits. An error is counted, and the next call retries."""
        try:
            yield from self._visible(self._collections[tenant], commits)
        except InternalError as error:
            self.errors[str(error)[:ERROR_LENGTH]] += 1

    def _visible(
        self, collection: Any, commits: Sequence[Commit]
    ) -> Iterator[tuple[Commit, float]]:
        """Yield the visible commits, with the moment of the answer."""
        inserts = [c for c in commits if c.kind == "inserts"]
        vectors = {c: c.memory.embedding for c in inserts}
        if inserts and self._real:
            vectors = _stored(collection, inserts)
        if vectors:
            found: Any = collection.query(
                query_embeddings=list(vectors.values()), n_results=NEIGHBOURS, include=[]
            )
            now = time.monotonic()
            for commit, names in zip(vectors, found["ids"], strict=True):
                if document_id(commit.memory_id) in names:
                    yield commit, now
        if others := [c for c in commits if c.kind != "inserts"]:
            got = collection.get(ids=_names(others), include=["documents"])
            now = time.monotonic()
            texts = dict(zip(got["ids"], got["documents"], strict=True))
            for commit in others:
                wanted = None if commit.kind == "deletes" else commit.memory.raw
                if texts.get(document_id(commit.memory_id)) == wanted:
                    yield commit, now


def _receive(inbox: SimpleQueue[Commit | None], waiting: list[Commit]) -> bool:
    """Take the commits that have arrived; wait for one if none is waiting. False after the last."""
    while True:
        try:
            commit = inbox.get(block=not waiting)
        except Empty:
            return True
        if commit is None:
            return False
        waiting.append(commit)


def _names(commits: Sequence[Commit]) -> list[str]:
    return [document_id(commit.memory_id) for commit in commits]


def _stored(collection: Any, commits: Sequence[Commit]) -> dict[Commit, Vector | None]:
    """Return the vectors of the commits whose document exists."""
    got = collection.get(ids=_names(commits), include=["embeddings"])
    vectors = dict(zip(got["ids"], got["embeddings"], strict=True))
    named = {document_id(commit.memory_id): commit for commit in commits}
    return {named[name]: vector for name, vector in vectors.items()}
