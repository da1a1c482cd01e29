"""Fixtures that several integration tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings


@pytest.fixture
def reopened(settings: Settings, unmarked_chroma: None) -> Iterator[Callable[..., Pipeline]]:
    """Return a function that opens a pipeline on the test's database with other settings."""
    with ExitStack() as stack:

        def reopen(embedder: HashingEmbedder | None = None, **changes: object) -> Pipeline:
            changed = settings.model_copy(update=changes)
            return stack.enter_context(opened(changed, embedder=embedder or HashingEmbedder()))

        yield reopen
