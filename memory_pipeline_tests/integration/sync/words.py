"""Words of the tests of sync: doubles, what a tenant holds, what waits."""

from dataclasses import replace
from typing import Any

import numpy as np

from memory_pipeline.content.document import compose
from memory_pipeline.domain.types import (
    Generation,
    RebuildId,
    TenantId,
)
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Embedder
from memory_pipeline.sync.tenant import Sync
from memory_pipeline_tests.doubles import meddled_index
from memory_pipeline_tests.words import ADA, SECONDS, drained, live

SAME_VECTOR = 1e-5


def settled(pipeline: Pipeline, sync: Sync | None = None) -> bool:
    """Drain, pauses or not; return whether nothing at all is pending."""
    drained(pipeline, sync)
    return pipeline.status.totals().pending_changes == 0


def with_embedder(pipeline: Pipeline, embedder: Embedder) -> Sync:
    """Return the heart with another embedder."""
    return replace(pipeline.sync(), embedder=embedder)


def with_index(pipeline: Pipeline, **meddling: Any) -> Sync:
    """Return the heart with an index that a test meddles with."""
    return replace(pipeline.sync(), index=meddled_index(pipeline.index, **meddling))


def begin_building(pipeline: Pipeline, *, model: str = HashingEmbedder.model) -> Generation:
    """Let a rebuild of ada get as far as an empty generation that every batch writes, too."""
    rebuild = RebuildId("the rebuild")
    pipeline.registry.register(ADA)
    pipeline.rebuilds.request(rebuild, [ADA], re_embed=False)
    build = pipeline.rebuilds.acquire_part(rebuild, ADA)
    assert build is not None
    begun = pipeline.registry.begin_generation(
        ADA,
        pipeline.index.choose_server(),
        model=model,
        config_hash=pipeline.recipe.config_hash,
        memories=0,
    )
    generation = pipeline.index.create(begun, memories=0, renew=lambda: SECONDS)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.rebuilds.register_building(build, lease, generation)
    pipeline.rebuilds.return_lease(lease)
    return replace(generation, state="building")


def damage(pipeline: Pipeline) -> Generation:
    """Find ada's live generation damaged; return it."""
    damaged = live(pipeline)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.registry.abandon(lease, damaged.id)
    pipeline.outbox.release_lease(lease)
    return damaged


def assert_mirrored(pipeline: Pipeline, tenant: TenantId = ADA) -> None:
    """Compare the tenant's collection with Postgres: ids, texts, metadata, vectors."""
    generation = live(pipeline, tenant)
    with pipeline.servers.client(generation.server).collection(generation, SECONDS) as collection:
        held = collection.get(include=["documents", "metadatas", "embeddings"])
    walked = [m.id for m in pipeline.memories.of_tenant(tenant)]
    rows, left_out = pipeline.memories.read(walked)
    assert not left_out
    names = {f"memory_log_{i}": row for i, row in rows.items()}
    assert set(held["ids"]) == set(names)
    documents, metadatas, embeddings = held["documents"], held["metadatas"], held["embeddings"]
    assert documents is not None
    assert metadatas is not None
    assert embeddings is not None
    for name, text, metadata, vector in zip(
        held["ids"], documents, metadatas, embeddings, strict=True
    ):
        row = names[name]
        assert text == row.raw
        assert metadata == compose(row, pipeline.recipe).metadata
        assert row.embedding is not None
        assert np.abs(np.asarray(vector) - row.embedding).max() < SAME_VECTOR
