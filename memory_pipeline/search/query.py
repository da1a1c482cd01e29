"""The read path: words → vector → the tenant's live collection → memories as Postgres has them.

Chroma only proposes. Whether a memory exists, whose it is and what it says is read from Postgres on
each call, so an answer can be late but never wrong: nothing deleted, nothing of another tenant,
nothing that no longer passes the filter. It writes nothing.

A memory whose newest content could not be indexed is found by its older vector and shown as it is
now; where the settings say ``nothing``, it is not found. Either way no older text is ever shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.content.document import Content, Recipe, compose, parse
from memory_pipeline.domain.types import Generation, Hit, Match, Memory, MemoryId, TenantId
from memory_pipeline.errors import ConfigurationChanged, Corrupt
from memory_pipeline.ports import Embedder
from memory_pipeline.postgres.dead_letters import PostgresDeadLetters
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.search.filters import Filter, parse_filter

MOST_RESULTS = 1000
# Some of what Chroma proposes may be gone by now; asking for a few more saves a second question.
SPARE_RESULTS = 5
# Below Chroma's limit of results in one query.
MOST_MATCHES = 30_000


class Search:
    """Searches the memories of one tenant at a time."""

    def __init__(
        self,
        *,
        memories: PostgresMemories,
        registry: PostgresRegistry,
        index: ChromaIndex,
        embedder: Embedder,
        recipe: Recipe,
        seconds: float,
        dead_letters: PostgresDeadLetters,
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
        """Return the tenant's memories that are nearest in meaning, nearest first.

        Args:
            tenant: whose memories; no other tenant's are ever returned.
            text: what to look for, in words.
            k: how many, 1 to 1000.
            where: a filter on metadata, e.g. ``{"component": "auth", "ts": {"$gte": 1700000000}}``.

        Raises:
            InvalidFilter: the filter is outside the grammar.
            ValueError: k is out of range.
            PostgresUnavailable: Postgres is down.
            ChromaUnavailable: Chroma is down, slow or has lost its data.
            Corrupt: the tenant's collection is damaged; the next sync rebuilds it.
            ConfigurationChanged: the model is not the one that the collection was built with.

        """
        if not 1 <= k <= MOST_RESULTS:
            raise ValueError(f"k is {k}; allowed is 1 to {MOST_RESULTS}")
        condition = parse_filter(where, self._recipe)
        generation = self._registry.live(tenant)
        if generation is None:
            return []
        if generation.model != self._embedder.model:
            raise ConfigurationChanged(
                f"the tenant's collection was built with {generation.model}, not with "
                f"{self._embedder.model}: rebuild the tenant"
            )
        vector = self._embedder.embed([text])[0]
        limit = k + SPARE_RESULTS
        while True:
            try:
                matches = self._query(generation, vector, limit, condition)
            except Corrupt:
                # It may have been retired between the look-up and the query: look up once more.
                newer = self._registry.live(tenant)
                if newer is None or newer.id == generation.id:
                    raise
                generation = newer
                continue
            hits = self._confirmed(tenant, matches, condition)
            if len(hits) >= k or len(matches) < limit or limit == MOST_MATCHES:
                return hits[:k]
            limit = min(limit * 4, MOST_MATCHES)

    def _query(
        self, generation: Generation, vector: Any, limit: int, condition: Filter | None
    ) -> list[Match]:
        return self._index.query(
            generation,
            vector,
            limit=limit,
            where=condition.to_chroma() if condition else None,
            seconds=self._seconds,
        )

    def _confirmed(
        self, tenant: TenantId, matches: list[Match], condition: Filter | None
    ) -> list[Hit]:
        """Keep what Postgres still has under this tenant; show it as it stands there."""
        rows = self._memories.get(tenant, [match.memory_id for match in matches])
        found = [
            _Found(match, memory, compose(memory, self._recipe))
            for match in matches
            if (memory := rows.get(match.memory_id)) is not None
        ]
        withheld = self._withheld(tenant, found)
        return [
            one.hit()
            for one in found
            if one.memory.id not in withheld
            and not (one.changed and condition and not condition.matches(one.content.metadata))
        ]

    def _withheld(self, tenant: TenantId, found: list["_Found"]) -> frozenset[MemoryId]:
        """Return what is not shown because its newest content was refused."""
        changed = [one.memory.id for one in found if one.changed]
        if self._dead_letter_search == "previous" or not changed:
            return frozenset()
        return self._dead_letters.buried(tenant, changed)


@dataclass(frozen=True, slots=True)
class _Found:
    """What Chroma proposes, and what stands in Postgres."""

    match: Match
    memory: Memory
    content: Content

    @property
    def changed(self) -> bool:
        """Whether the document is of older content."""
        return self.match.metadata.get("hash") != self.content.content_hash

    def hit(self) -> Hit:
        """Show it as it stands in Postgres."""
        return Hit(
            self.memory.id,
            self.match.distance,
            self.content.metadata,
            parse(self.memory.raw),
            self.memory.created_at,
        )
