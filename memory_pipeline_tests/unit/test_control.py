"""A model that refuses everything is broken, and no memory is to blame, whatever is cached."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from memory_pipeline.content.document import compose, recipe_from
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Memory, MemoryId, TenantId
from memory_pipeline.embedding.cache import CachedEmbedder
from memory_pipeline.errors import EmbedderUnavailable, Poison
from memory_pipeline.settings import Settings
from memory_pipeline.sync.embed import embed_drafts
from memory_pipeline.sync.plan import Draft
from memory_pipeline_tests.doubles import raises
from memory_pipeline_tests.embedders import CountingEmbedder


def draft(text: str) -> Draft:
    """Return a memory with this text."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    memory = Memory(
        MemoryId(1), TenantId("ada"), "ada", None, f'"{text}"', None, moment, moment, "7"
    )
    return Draft(memory, compose(memory, recipe_from(Settings.load())))


def embed(embedder: CachedEmbedder, text: str) -> list[Failure]:
    """Embed one memory under a valid lease."""
    return embed_drafts(
        embedder, [draft(text)], renew=lambda: 1.0, slice_seconds=1.0, keep=lambda _: None
    )


def test_an_outage_after_a_poison_memory_charges_nobody() -> None:
    """A control that once passed says nothing about the model as it is now."""

    def refuse(texts: Sequence[str]) -> None:
        if "poison" in texts:
            raise Poison("refused")

    model = CountingEmbedder(before=refuse)
    embedder = CachedEmbedder(model)
    assert [f.reason for f in embed(embedder, "poison")] == ["embedding: refused"]
    model.before = raises(Poison("refused"))
    with pytest.raises(EmbedderUnavailable):
        embed(embedder, "a memory that nothing is wrong with")
