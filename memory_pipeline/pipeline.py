"""Puts the rooms together: from settings to something that syncs and searches. Decides nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.chroma.servers import Servers
from memory_pipeline.content import Recipe, recipe_from
from memory_pipeline.embedding import embedder_from
from memory_pipeline.ports import Embedder
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.search import Search
from memory_pipeline.settings import Settings
from memory_pipeline.sync import Sync


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The parts of one installation, connected."""

    settings: Settings
    database: Database
    recipe: Recipe
    outbox: PostgresOutbox
    memories: PostgresMemories
    registry: PostgresRegistry
    status: PostgresStatus
    servers: Servers
    index: ChromaIndex
    embedder: Embedder
    search: Search

    def sync(self) -> Sync:
        """Return the heart, which asks Postgres once what stored vectors are."""
        return Sync(
            outbox=self.outbox,
            memories=self.memories,
            registry=self.registry,
            index=self.index,
            embedder=self.embedder,
            recipe=self.recipe,
            trust=self.status.trusts_vectors(),
            slice_seconds=self.settings.lease_seconds / 4,
        )


@contextmanager
def opened(settings: Settings, *, embedder: Embedder | None = None) -> Iterator[Pipeline]:
    """Connect the parts and close them at the end. Starts nothing and loads no model by itself.

    Raises:
        PostgresUnavailable: the settings name no database.

    """
    database = Database.from_settings(settings)
    recipe = recipe_from(settings)
    registry = PostgresRegistry(database)
    memories = PostgresMemories(database, settings)
    servers = Servers(registry, settings)
    index = ChromaIndex(servers)
    embedder = embedder or embedder_from(settings)
    try:
        yield Pipeline(
            settings=settings,
            database=database,
            recipe=recipe,
            outbox=PostgresOutbox(database, settings),
            memories=memories,
            registry=registry,
            status=PostgresStatus(database),
            servers=servers,
            index=index,
            embedder=embedder,
            search=Search(
                memories=memories,
                registry=registry,
                index=index,
                embedder=embedder,
                recipe=recipe,
                seconds=settings.request_seconds,
            ),
        )
    finally:
        servers.forget()
        database.close()
