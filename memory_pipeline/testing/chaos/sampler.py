"""Searches and compares during the faults, and records anomalies.

Each turn: a search as an application makes it, over the proxied link to Chroma, judged by the
expected state; and both sides of some memories, read around the pipeline, twice. A difference that
both reads show, with no change pending, breaks the promise that nothing is lost.
"""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import psycopg
from chromadb.errors import ChromaError
from pydantic import SecretStr

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PostgresUnavailable
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.testing.chaos.expected_state import ExpectedState
from memory_pipeline.testing.chaos.ground_truth import GroundTruth, SourceRow
from memory_pipeline.testing.chaos.history import Anomaly, now
from memory_pipeline.testing.chaos.payloads import digest, question
from memory_pipeline.testing.chaos.stack import PrivateStack

TURN_SECONDS = 0.1
DOCUMENTS, MEMORIES = 60, 60
HITS = 5
# A change that was committed just before the first read is seen correctly by the second.
BETWEEN_READS_SECONDS = 0.3
MOST_OFFSET = 1_000
# The errors that an application has to expect during faults.
EXPECTED = (ChromaUnavailable, PostgresUnavailable, Corrupt)


@dataclass(frozen=True, slots=True)
class Difference:
    """How a document differs from its memory, with the generation and the row's version."""

    kind: str
    generation: str
    version: str


class Sampler:
    """Two threads: one searches, one compares both sides.

    ``seen`` counts searches, hits, compared documents and violations.
    """

    def __init__(
        self,
        stack: PrivateStack,
        tenants: Sequence[TenantId],
        expected: ExpectedState,
        *,
        seed: int,
    ) -> None:
        self.seen: Counter[str] = Counter()
        self._stack = stack
        self._tenants = tenants
        self._expected = expected
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._reported: set[tuple[str, TenantId, MemoryId]] = set()

    def start(self) -> None:
        """Begin to search and compare."""
        self._stop.clear()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("searches", self._search), ("compares", self._compare))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop both threads and wait for their ends."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _report(self, kind: str, tenant: TenantId, memory_id: MemoryId, detail: str) -> None:
        self.seen[f"violation: {kind}"] += 1
        if (kind, tenant, memory_id) not in self._reported:
            self._reported.add((kind, tenant, memory_id))
            self._stack.history.append(Anomaly(kind, tenant, memory_id, now(), detail))

    # ---- searches, as an application makes them

    def _search(self) -> None:
        chance = random.Random(self._seed)  # noqa: S311 - no cryptography
        # Memories come from Postgres directly: over its broken link too few hits would be judged.
        settings = self._stack.settings.model_copy(
            update={"database_url": SecretStr(self._stack.url)}
        )
        with opened(settings, embedder=HashingEmbedder()) as pipeline:
            while not self._stop.wait(TURN_SECONDS):
                tenant = chance.choice(self._tenants)
                self._search_once(pipeline, tenant, question(chance))

    def _search_once(self, pipeline: Pipeline, tenant: TenantId, text: str) -> None:
        began = now()
        try:
            hits = pipeline.search.search(tenant, text, k=HITS)
        except EXPECTED:
            self.seen["searches refused"] += 1
            return
        except Exception as error:  # noqa: BLE001 - any other error breaks a promise
            detail = f"{type(error).__name__}: {str(error)[:200]}"
            self._report("search broke", tenant, MemoryId(0), detail)
            return
        self.seen["searches"] += 1
        for hit in hits:
            self.seen["hits"] += 1
            certain, state = self._expected.certain(hit.memory_id, since=began)
            if not certain:
                continue
            if state is None:
                self._report("search: resurrected", tenant, hit.memory_id, "it had been deleted")
            elif state.tenant != tenant:
                self._report("search: foreign", tenant, hit.memory_id, f"it is {state.tenant}'s")
            elif state.digest != digest(hit.memory):
                self._report("search: stale", tenant, hit.memory_id, "its content is another")

    # ---- both sides, around the pipeline

    def _compare(self) -> None:
        chance = random.Random(self._seed + 1)  # noqa: S311 - no cryptography
        while not self._stop.is_set():
            try:
                with self._stack.connect("chaos-sampler") as connection:
                    truth = GroundTruth(connection, self._stack.chroma_url)
                    while not self._stop.wait(TURN_SECONDS):
                        self._compare_once(truth, chance.choice(self._tenants), chance)
            except (psycopg.Error, httpx.HTTPError, ChromaError, ValueError):
                self.seen["comparisons refused"] += 1
                self._stop.wait(TURN_SECONDS)

    def _compare_once(self, truth: GroundTruth, tenant: TenantId, chance: random.Random) -> None:
        generation = truth.live(tenant)
        if generation is None:
            return
        offset = chance.choice([0, chance.randrange(MOST_OFFSET)])
        listed = truth.some_documents(generation, DOCUMENTS, offset=offset)
        ids = sorted({*listed, *truth.some_ids(tenant, MEMORIES)})
        self.seen["documents compared"] += len(ids)
        first = self._differences(truth, tenant, ids)
        if not first or self._stop.wait(BETWEEN_READS_SECONDS):
            return
        second = self._differences(truth, tenant, sorted(first))
        if tenant in self._stack.tampered:
            return
        for memory_id, found in second.items():
            if first[memory_id] == found:
                self._report(f"at rest: {found.kind}", tenant, memory_id, found.generation)

    @staticmethod
    def _differences(
        truth: GroundTruth, tenant: TenantId, ids: Sequence[MemoryId]
    ) -> dict[MemoryId, Difference]:
        """Read documents between two reads of Postgres; return unexplained differences."""
        generation, before, excused = (
            truth.live(tenant),
            truth.rows(ids),
            truth.excused(tenant, ids),
        )
        if generation is None or excused.everything:
            return {}
        texts = truth.texts(generation, ids)
        after, still = truth.rows(ids), truth.excused(tenant, ids)
        if still.everything or truth.live(tenant) != generation:
            return {}
        found = {}
        for memory_id in ids:
            row = before.get(memory_id)
            kind = difference(tenant, row, texts.get(memory_id), there=memory_id in texts)
            if kind and row == after.get(memory_id) and memory_id not in excused.ids | still.ids:
                found[memory_id] = Difference(kind, generation, row.version if row else "")
        return found


def difference(tenant: TenantId, row: SourceRow | None, text: str | None, *, there: bool) -> str:
    """Return how a tenant's document differs from its row; empty: it does not."""
    if row is None or row.tenant != tenant:
        if not there:
            return ""
        return "extra" if row is None else "foreign"
    if not there:
        return "missing"
    return "" if text == row.raw else "stale"
