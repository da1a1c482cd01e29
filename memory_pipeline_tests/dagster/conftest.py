"""A Dagster instance in memory, and the pipeline's settings in the environment."""

from collections.abc import Iterator

import dagster as dg
import pytest

from memory_pipeline.settings import Settings


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Return an instance that lives as long as the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def environment(
    settings: Settings, unmarked_chroma: None, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Name the test's services in the environment, as Dagster's processes find them."""
    assert settings.database_url is not None
    assert settings.chroma_url is not None
    for name, value in {
        "HOME": str(settings.home),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "CHROMA_URL": settings.chroma_url,
        "EMBEDDER": "hashing",
        "RETRY_SECONDS": "0.05",
    }.items():
        monkeypatch.setenv(f"MEMORY_PIPELINE_{name}", value)
    return settings
