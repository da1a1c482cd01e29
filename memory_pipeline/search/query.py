"""Answers a question: text → vector → candidates in Chroma → memories as Postgres has them.

Chroma only proposes. Whether a memory exists, whose it is and what it contains is read from
Postgres on each call, so an answer can be late but never wrong: no deleted memory, no memory of
another tenant, none that no longer passes the filter. Writes nothing.

A memory whose newest content could not be indexed is found by its previous vector and returned with
its current content; with ``DEAD_LETTER_SEARCH=hidden`` it is not found. Old content is never
returned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memory_pipeline.content.document import Content, Recipe, compose, parse
from memory_pipeline.domain.types import Generation, Hit, Match, Memory, MemoryId, TenantId, Vector
from memory_pipeline.errors import ConfigurationChanged, Corrupt
from memory_pipeline.ports import Embedder
from memory_pipeline.search.filters import Filter, parse_filter
from memory_pipeline.search.ports import (
    BuriedMemories,
    CandidateIndex,
    CurrentMemories,
    LiveGenerations,
)

MOST_RESULTS = 1000
# Candidates may be deleted or moved by now; a few more save a second query.
SPARE_CANDIDATES = 5
# Below the number of results that Chroma allows in one query.
MOST_CANDIDATES = 30_000


class Search:
    """Searches the memories of one tenant at a time. Thread-safe if its embedder is."""

    def __init__(
        self,
        *,
        memories: CurrentMemories,
        registry: LiveGenerations,
        index: CandidateIndex,
        embedder: Embedder,
        recipe: Recipe,
        seconds: float,
        dead_letters: BuriedMemories,
        dead_letter_search: Literal["previous", "hidden"],
    ) -> None:
        self._memories = memories
        self._registry = registry
        self._index = index
        self._embedder = embedder
        self._recipe = recipe
        self._seconds = seconds
        self._dead_letters = dead_letters
        self._dead_letter_search = dead_letter_search

    def search(
        self, tenant: TenantId, text: str, *, k: int = 5, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        """Return the tenant's ``k`` memories nearest in meaning to a text, nearest first.

        Raises:
            ValueError: k is not in 1 to 1000.
            InvalidFilter: the filter is outside the grammar.
            PostgresUnavailable: Postgres is down.
            ChromaUnavailable: Chroma is down, slow or has lost its data.
            ConfigurationChanged: the collection was built with another model.
            ModelMissing: the model's files are not on this machine.
            EmbedderUnavailable: the model cannot be loaded or has failed.
            Poison: the model refuses the text.
            Corrupt: the tenant's collection is damaged; the next sync has it rebuilt.

        """
        if not 1 <= k <= MOST_RESULTS:
            raise ValueError(f"k is {k}; allowed is 1 to {MOST_RESULTS}")
        # 1. The filter.
        condition = parse_filter(where, self._recipe)
        # 2. The collection, resolved by each search: a rebuild may flip it at any time.
        generation = self._resolve(tenant)
        if generation is None:
            return []
        # 3. The vector of the text, by the collection's model.
        vector = self._embedder.embed([text])[0]
        limit = k + SPARE_CANDIDATES
        while True:
            # 4. The candidates.
            generation, matches = self._candidates(generation, vector, limit, condition)
            # 5. The candidates that Postgres confirms; too few: four times as many candidates.
            hits = self._confirm(tenant, matches, condition)
            if len(hits) >= k or len(matches) < limit or limit == MOST_CANDIDATES:
                return hits[:k]
            limit = min(limit * 4, MOST_CANDIDATES)

    def _resolve(self, tenant: TenantId) -> Generation | None:
        """Return the live generation; None where nothing was synced yet."""
        generation = self._registry.live(tenant)
        if generation is not None and generation.model != self._embedder.model:
            raise ConfigurationChanged(
                f"the tenant's collection was built with {generation.model}, not with "
                f"{self._embedder.model}: rebuild the tenant"
            )
        return generation

    def _candidates(
        self, generation: Generation, vector: Vector, limit: int, condition: Filter | None
    ) -> tuple[Generation, list[Match]]:
        """Return the nearest documents, and the generation that they are of."""
        while True:
            try:
                return generation, self._index.query(
                    generation,
                    vector,
                    limit=limit,
                    where=condition.to_chroma() if condition else None,
                    seconds=self._seconds,
                )
            except Corrupt:
                # It may have been retired since it was resolved: then another one is live, or none,
                # where the tenant was forgotten or has no memories.
                newer = self._resolve(generation.tenant)
                if newer is None:
                    return generation, []
                if newer.id == generation.id:
                    raise
                generation = newer

    def _confirm(
        self, tenant: TenantId, matches: list[Match], condition: Filter | None
    ) -> list[Hit]:
        """Keep the matches that Postgres still has under this tenant, with their current content.

        The filter is applied again: a document of older content may no longer pass it, and Chroma
        compares numbers beyond 2**53 rounded.
        """
        rows = self._memories.get(tenant, [match.memory_id for match in matches])
        candidates = [
            _Candidate(match, memory, compose(memory, self._recipe))
            for match in matches
            if (memory := rows.get(match.memory_id)) is not None
        ]
        hidden = self._hidden(tenant, candidates)
        return [
            candidate.hit()
            for candidate in candidates
            if candidate.memory.id not in hidden
            and (condition is None or condition.matches(candidate.content.metadata))
        ]

    def _hidden(self, tenant: TenantId, candidates: list["_Candidate"]) -> frozenset[MemoryId]:
        """Return the memories that are not shown because their newest content was refused."""
        outdated = [candidate.memory.id for candidate in candidates if candidate.outdated]
        if self._dead_letter_search == "previous" or not outdated:
            return frozenset()
        return self._dead_letters.buried(tenant, outdated)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A document that Chroma proposes, and the memory that Postgres has."""

    match: Match
    memory: Memory
    content: Content

    @property
    def outdated(self) -> bool:
        """Whether the document is of older content."""
        return self.match.metadata.get("hash") != self.content.content_hash

    def hit(self) -> Hit:
        """Return the memory as it is in Postgres now."""
        return Hit(
            self.memory.id,
            self.match.distance,
            self.content.metadata,
            parse(self.memory.raw),
            self.memory.created_at,
        )
