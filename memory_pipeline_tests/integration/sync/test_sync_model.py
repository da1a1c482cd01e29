"""The heart over a real Postgres and a real Chroma: another model, other settings."""

from collections.abc import Callable

import psycopg
import pytest

from memory_pipeline.errors import DeviceUnusable, EmbedderUnavailable, PipelineError
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.doubles import raises
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.sync.words import assert_mirrored, with_embedder
from memory_pipeline_tests.words import (
    ADA,
    count_of,
    drained,
    drained_due,
    held,
    remember,
)


@pytest.mark.parametrize("changes", [{"text_limit": 10}, {"metadata_fields": ("task",)}])
def test_other_settings_are_refused_with_what_to_do(
    pipeline: Pipeline,
    reopened: Callable[..., Pipeline],
    db: psycopg.Connection,
    changes: dict[str, object],
) -> None:
    """Documents of two recipes are never mixed in one collection."""
    remember(db)
    drained_due(pipeline)
    remember(db, summary="another")
    other = reopened(**changes)
    [outcome] = drained_due(other)
    assert outcome.verdict == "refused"
    assert "set them back, or rebuild" in outcome.reason
    assert count_of(db, "change WHERE claim_token IS NOT NULL") == 0
    assert len(held(pipeline)) == 1
    drained(pipeline)
    assert_mirrored(pipeline)


def test_another_model_is_refused_with_what_to_do(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Vectors of two models are never compared."""
    remember(db)
    drained_due(pipeline)
    remember(db, summary="another")
    [outcome] = drained_due(pipeline, with_embedder(pipeline, CountingEmbedder(model="another")))
    assert outcome.verdict == "refused"
    assert "another model" in outcome.reason
    assert len(held(pipeline)) == 1


def test_a_cold_model_is_loaded_without_the_lease(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Loading takes longer than a lease: meanwhile nobody is kept out and nothing is claimed."""
    remember(db)

    def load() -> None:
        lease = pipeline.outbox.acquire_lease(ADA)
        assert lease is not None
        pipeline.outbox.release_lease(lease)
        assert count_of(db, "change WHERE claim_token IS NOT NULL") == 0

    embedder = CountingEmbedder(loaded=False, on_load=load)
    [outcome] = drained_due(pipeline, with_embedder(pipeline, embedder))
    assert (outcome.verdict, outcome.embedded) == ("done", 1)
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


@pytest.mark.parametrize(
    "error", [EmbedderUnavailable("out of memory"), DeviceUnusable("DEVICE='cuda': no such build")]
)
def test_a_model_that_cannot_be_loaded_postpones(
    error: PipelineError, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: a sync never raises for an outage of the model, and charges nobody.

    What broke: one tenant with a text to embed ended the whole run where the device was wrong.
    """
    remember(db)

    unloadable = CountingEmbedder(loaded=False, on_load=raises(error))
    [outcome] = drained_due(pipeline, with_embedder(pipeline, unloadable))
    assert outcome.verdict == "postponed"
    assert count_of(db, "failure") == 0
