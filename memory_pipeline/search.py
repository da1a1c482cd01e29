"""The read path: words → vector → the tenant's live collection → memories as Postgres has them.

Chroma only proposes. Whether a memory exists, whose it is and what it says is read from Postgres on
each call, so an answer can be late but never wrong: nothing deleted, nothing of another tenant,
nothing that no longer passes the filter. It writes nothing.
"""

from collections.abc import Mapping
from typing import Any

from memory_pipeline.chroma.index import ChromaIndex, Match
from memory_pipeline.content import Recipe, compose, parse
from memory_pipeline.errors import ConfigurationChanged, Corrupt
from memory_pipeline.filters import Filter, parse_filter
from memory_pipeline.model import Generation, Hit, Memory, MemoryId, TenantId
from memory_pipeline.ports import Embedder
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.registry import PostgresRegistry

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
    ) -> None:
        self._memories = memories
        self._registry = registry
        self._index = index
        self._embedder = embedder
        self._recipe = recipe
        self._seconds = seconds

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
        return [
            hit
            for match in matches
            if (memory := rows.get(match.memory_id)) is not None
            and (hit := self._hit(match, memory, condition)) is not None
        ]

    def _hit(self, match: Match, memory: Memory, condition: Filter | None) -> Hit | None:
        content = compose(memory, self._recipe)
        changed = match.metadata.get("hash") != content.content_hash
        if changed and condition is not None and not condition.matches(content.metadata):
            return None
        return Hit(
            MemoryId(memory.id),
            match.distance,
            content.metadata,
            parse(memory.raw),
            memory.created_at,
        )
