"""A pipeline with small chunks, and an embedder that counts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.rebuild.words import CHUNKS


@pytest.fixture
def embedder() -> CountingEmbedder:
    """Return the stand-in, which counts."""
    return CountingEmbedder()


@pytest.fixture
def pipeline(
    settings: Settings, unmarked_chroma: None, embedder: CountingEmbedder
) -> Iterator[Pipeline]:
    """Return the parts with small chunks, so that a small tenant has several."""
    chosen = settings.model_copy(update={**CHUNKS, "retire_seconds": 0.0})
    with opened(chosen, embedder=embedder) as parts:
        yield parts


@pytest.fixture
def reopened(settings: Settings, unmarked_chroma: None) -> Iterator[Callable[..., Pipeline]]:
    """Return a function that opens another pipeline on the same database with other settings."""
    with ExitStack() as stack:

        def reopen(**changes: object) -> Pipeline:
            changed = settings.model_copy(update={**CHUNKS, **changes})
            return stack.enter_context(opened(changed, embedder=HashingEmbedder()))

        yield reopen
