"""Search on its own: what it does when a rebuild flips the collection during a search."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import Generation, Match, Memory, MemoryId, TenantId, Vector
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ConfigurationChanged, Corrupt
from memory_pipeline.search.query import Search
from memory_pipeline.settings import Settings

ADA = TenantId("ada")
OLD = Generation(uuid4(), ADA, uuid4(), uuid4(), HashingEmbedder.model, "")


class Flipping:
    """A registry whose tenant is flipped after the first look, and an index that lost the old."""

    def __init__(self, newer: Generation) -> None:
        self.live_ones = [OLD, newer]
        self.queried: list[Generation] = []

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the old generation once."""
        del tenant
        return self.live_ones.pop(0) if len(self.live_ones) > 1 else self.live_ones[0]

    def query(
        self,
        generation: Generation,
        vector: Vector,
        *,
        limit: int,
        where: Mapping[str, Any] | None,
        seconds: float,
    ) -> list[Match]:
        """Refuse the old generation, which was dropped."""
        del vector, limit, where, seconds
        self.queried.append(generation)
        if generation == OLD:
            raise Corrupt("Collection does not exist")
        return []

    def get(self, tenant: TenantId, ids: object) -> dict[MemoryId, Memory]:
        """Return no memory."""
        del tenant, ids
        return {}

    def buried(self, tenant: TenantId, memory_ids: object) -> frozenset[MemoryId]:
        """Return no dead letter."""
        del tenant, memory_ids
        return frozenset()

    def search(self) -> list[Any]:
        """Search once."""
        search = Search(
            memories=self,
            registry=self,
            index=self,
            embedder=HashingEmbedder(),
            recipe=recipe_from(Settings()),
            seconds=1.0,
            dead_letters=self,
            dead_letter_search="previous",
        )
        return search.search(ADA, "a walk")


def test_a_search_during_a_flip_goes_on_in_the_new_collection() -> None:
    """The old one may be dropped between the pointer and the query."""
    newer = replace(OLD, id=uuid4())
    world = Flipping(newer)
    assert world.search() == []
    assert world.queried == [OLD, newer]


def test_a_flip_to_another_model_is_told_and_not_searched() -> None:
    """What broke: a vector of the old model was compared with vectors of the new one."""
    world = Flipping(replace(OLD, id=uuid4(), model="another"))
    with pytest.raises(ConfigurationChanged, match="built with another"):
        world.search()
    assert world.queried == [OLD]


def test_a_damaged_collection_that_is_still_live_is_told() -> None:
    """No other collection can answer."""
    with pytest.raises(Corrupt):
        Flipping(OLD).search()
