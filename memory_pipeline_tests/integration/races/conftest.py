"""The pipeline's parts on Postgres alone, with a short batch."""

from collections.abc import Iterator

import pytest

from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.races.words import GRACE_SECONDS, REQUEST_SECONDS
from memory_pipeline_tests.words import ADA


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Connect as the pipeline does, with room for several workers."""
    opened = Database(database_url, size=12)
    yield opened
    opened.close()


@pytest.fixture
def limits(database_url: str) -> Settings:
    """Return settings with batches of 7."""
    return Settings.load(
        database_url=database_url,
        request_seconds=REQUEST_SECONDS,
        grace_seconds=GRACE_SECONDS,
        batch_size=7,
    )


@pytest.fixture
def registry(database: Database) -> PostgresRegistry:
    """Return the registry, where ada is registered."""
    registry = PostgresRegistry(database)
    registry.register(ADA)
    return registry


@pytest.fixture
def outbox(database: Database, limits: Settings, registry: PostgresRegistry) -> PostgresOutbox:
    """Return one worker's outbox."""
    return PostgresOutbox(database, limits)


@pytest.fixture
def memories(database: Database, limits: Settings) -> PostgresMemories:
    """Return the pipeline's view of memory_logs."""
    return PostgresMemories(database, limits)


@pytest.fixture
def rebuilds(database: Database, limits: Settings) -> PostgresRebuilds:
    """Return the parts of rebuilds."""
    return PostgresRebuilds(database, limits)
