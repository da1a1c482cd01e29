"""Joins the core with its adapters: from settings to what syncs and searches. Decides nothing."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from memory_pipeline.admin.detach import Detach
from memory_pipeline.admin.forget import Forget
from memory_pipeline.admin.ports import TenantHistory
from memory_pipeline.admin.traces import NoHistory
from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.chroma.servers import Servers
from memory_pipeline.content.document import Recipe, recipe_from
from memory_pipeline.domain.dead_letters import Cause
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import TenantId
from memory_pipeline.embedding.factory import embedder_from
from memory_pipeline.maintenance.cleanup import drop_retired, retire_empty
from memory_pipeline.maintenance.restore_watch import RestoreWatch
from memory_pipeline.ports import Embedder
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.dead_letters import PostgresDeadLetters
from memory_pipeline.postgres.detach import PostgresDetach
from memory_pipeline.postgres.epochs import PostgresEpochs
from memory_pipeline.postgres.erasures import PostgresErasures
from memory_pipeline.postgres.listener import Listener, NoListener
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.replay import PostgresReplay
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.postgres.tenants import PostgresTenants
from memory_pipeline.postgres.transfer import PostgresTransfer
from memory_pipeline.postgres.workers import PostgresWorkers
from memory_pipeline.prefetch import Prefetch, prefetch
from memory_pipeline.rebuild.chunks import ChunkWriter
from memory_pipeline.rebuild.ownership import Ownership
from memory_pipeline.rebuild.proof import Prover
from memory_pipeline.rebuild.tenant import Rebuild
from memory_pipeline.rebuild.tenants import RebuildAll
from memory_pipeline.search.query import Search
from memory_pipeline.settings import Settings
from memory_pipeline.sync.catch_up import CatchUp
from memory_pipeline.sync.drain import Drain
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.double_check import Sides
from memory_pipeline.verify.repair import Repair
from memory_pipeline.verify.tenant import Verify
from memory_pipeline.worker.background import DEFAULT_INTERVALS, BackgroundTasks, Intervals
from memory_pipeline.worker.loop import Worker
from memory_pipeline.worker.ports import Hints, Meter, Reporter
from memory_pipeline.worker.quiet import Quiet

# One call of a verify or a rebuild's reading; no tenant waits for it.
AUDIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The parts of one installation, connected."""

    settings: Settings
    database: Database
    recipe: Recipe
    outbox: PostgresOutbox
    memories: PostgresMemories
    transfer: PostgresTransfer
    registry: PostgresRegistry
    rebuilds: PostgresRebuilds
    status: PostgresStatus
    servers: Servers
    index: ChromaIndex
    embedder: Embedder
    search: Search
    tenants: PostgresTenants
    workers: PostgresWorkers
    freshness: Freshness
    dead_letters: PostgresDeadLetters
    replay: PostgresReplay
    epochs: PostgresEpochs
    restore_watch: RestoreWatch
    erasures: PostgresErasures
    prefetch: Prefetch = prefetch

    def sync(self) -> Sync:
        """Return what syncs one tenant; asks Postgres once whether stored vectors are trusted."""
        return Sync(
            outbox=self.outbox,
            memories=self.memories,
            registry=self.registry,
            index=self.index,
            embedder=self.embedder,
            recipe=self.recipe,
            trust=self.status.trusts_vectors(),
            slice_seconds=self.settings.lease_seconds / 4,
            freshness=self.freshness,
            dead_letter_search=self.settings.dead_letter_search,
        )

    def replay_cured(self) -> int:
        """Replay dead letters that another model, configuration or version refused.

        Once for each combination, a bounded number at a time: cheap to call often. Return
        how many.
        """
        return self.dead_letters.replay_cured(
            Cause.of_now(self.embedder.model, self.recipe.config_hash)
        )

    def drain(self) -> Drain:
        """Return what brings every tenant up to date."""
        return Drain(
            self.outbox,
            self.registry,
            self.sync(),
            self.rebuild_alone,
            self.index.takes_writes,
        )

    def catch_up(self) -> CatchUp:
        """Return what syncs all that is pending now, and waits for what other processes sync."""
        return CatchUp(self.drain(), self.outbox)

    def verify(self) -> Verify:
        """Return what compares the index with Postgres."""
        sides = Sides(
            memories=self.memories,
            outbox=self.outbox,
            index=self.index,
            recipe=self.recipe,
            model=self.embedder.model,
            trust=self.status.trusts_vectors(),
        )
        return Verify(sides, self.registry, AUDIT_SECONDS, prefetch=self.prefetch)

    def repair(self) -> Repair:
        """Return what verifies and repairs."""
        return Repair(self.verify(), self.outbox, self.sync(), self.rebuild_alone)

    def rebuild(self, *, proves: bool = True) -> RebuildAll:
        """Return what rebuilds any number of tenants; to be run once."""
        sync = self.sync()
        chunk_writer = ChunkWriter(
            outbox=self.outbox,
            memories=self.memories,
            rebuilds=self.rebuilds,
            index=self.index,
            embedder=self.embedder,
            recipe=self.recipe,
            trust=sync.trust,
            slice_seconds=sync.slice_seconds,
        )
        verify = self.verify()
        ownership = Ownership(self.outbox, self.rebuilds, verify.seconds, threading.Event())
        batch_size = self.settings.rebuild_batch_size
        one = Rebuild(
            ownership=ownership,
            outbox=self.outbox,
            registry=self.registry,
            rebuilds=self.rebuilds,
            index=self.index,
            chunk_writer=chunk_writer,
            sync=sync,
            prover=Prover(ownership, chunk_writer, verify, batch_size) if proves else None,
            chunk_documents=batch_size,
            chunk_documents_idle=self.settings.rebuild_batch_size_idle,
            prefetch=self.prefetch,
        )
        return RebuildAll(
            rebuild=one,
            rebuilds=self.rebuilds,
            registry=self.registry,
            memories=self.memories,
            index=self.index,
            grace_seconds=self.settings.retire_seconds,
        )

    def background(
        self, *, metrics: Meter, reporter: Reporter, intervals: Intervals = DEFAULT_INTERVALS
    ) -> BackgroundTasks:
        """Return the background tasks of one worker."""
        return BackgroundTasks(
            workers=self.workers,
            freshness=self.freshness,
            servers=self.servers,
            registry=self.registry,
            rebuild=self.rebuild,
            drop_retired=partial(
                drop_retired,
                self.registry,
                self.index,
                grace_seconds=self.settings.retire_seconds,
            ),
            replay_cured=self.replay_cured,
            resume_erasures=lambda: self.forget().resume(),
            retire_empty=self.retire_empty,
            restore_watch=self.restore_watch,
            forget_gone=self.memories.forget_gone,
            metrics=metrics,
            reporter=reporter,
            intervals=intervals,
            quiet=Quiet(seconds=self.settings.quiet_seconds),
        )

    def worker(self, background: BackgroundTasks) -> Worker:
        """Return a worker with these background tasks."""
        listen: Callable[[Callable[[], None]], Hints] = NoListener
        if self.settings.notify == "on":
            may_connect = partial(background.quiet.may_touch, "listen")
            listen = partial(self.listener, may_connect=may_connect)
        return Worker(
            outbox=self.outbox,
            sync=self.sync(),
            embedder=self.embedder,
            connect_chroma=self.index.servers,
            listen=listen,
            background=background,
            poll_seconds=self.settings.poll_seconds,
            servers=len(self.settings.chroma_addresses()),
        )

    def listener(
        self, wake: Callable[[], None], *, may_connect: Callable[[], bool] = lambda: True
    ) -> Listener:
        """Return what calls ``wake`` at each hint, on a connection that no pooler shares.

        ``may_connect``: whether a lost connection may be opened again now.
        """
        listen_url = self.settings.listen_url
        url = self.database.url if listen_url is None else listen_url.get_secret_value()
        return Listener(url, wake, may_connect=may_connect)

    def rebuild_alone(self, tenant: TenantId) -> Rebuilt:
        """Rebuild one tenant, because its collection was found damaged."""
        return self.rebuild().alone(tenant)

    def retire_empty(self) -> int:
        """Retire the collections of tenants that have long been without memories; count them."""
        return retire_empty(self.erasures, self.outbox, seconds=self.settings.empty_tenant_seconds)

    def forget(self, history: TenantHistory | None = None) -> Forget:
        """Return what forgets a tenant. ``history``: Dagster, where it is set up here."""
        return Forget(
            erasures=self.erasures,
            outbox=self.outbox,
            registry=self.registry,
            memories=self.memories,
            index=self.index,
            generations=self.epochs,
            log_tenants=self.settings.log_tenants,
            history=history or NoHistory(),
        )

    def detach(self) -> Detach:
        """Return what removes the pipeline from the database."""
        return Detach(
            postgres=PostgresDetach(self.database, self.settings),
            workers=self.workers,
            registry=self.registry,
            servers=self.servers,
            index=self.index,
            restore_watch=self.restore_watch,
        )


def migrate(
    settings: Settings, *, vectors: Literal["trust", "recompute"] | None = None
) -> list[str]:
    """Migrate the database of the settings; return advice, as ``postgres.migrate.migrate`` does."""
    from memory_pipeline.postgres import migrate as migration  # noqa: PLC0415 - alembic is slow

    return migration.migrate(settings, vectors=vectors)


def migration_sql(settings: Settings) -> str:
    """Return the SQL that ``migrate`` would run, for a DBA to run. Touches no database."""
    from memory_pipeline.postgres import migrate as migration  # noqa: PLC0415 - alembic is slow

    return migration.migration_sql(settings)


def pull_model(settings: Settings, *, progress: Callable[[str, int, int | None], None]) -> Path:
    """Get the model's files; arguments and errors as ``embedding.download.pull_model``."""
    from memory_pipeline.embedding import download  # noqa: PLC0415 - few commands need it

    return download.pull_model(settings.model_cache(), progress=progress)


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
    epochs = PostgresEpochs(database, settings)
    servers = Servers(registry, settings, epochs)
    index = ChromaIndex(servers)
    dead_letters = PostgresDeadLetters(database)
    embedder = embedder or embedder_from(settings)
    try:
        yield Pipeline(
            settings=settings,
            database=database,
            recipe=recipe,
            outbox=PostgresOutbox(database, settings),
            memories=memories,
            transfer=PostgresTransfer(database),
            registry=registry,
            rebuilds=PostgresRebuilds(database, settings),
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
                dead_letters=dead_letters,
                dead_letter_search=settings.dead_letter_search,
            ),
            tenants=PostgresTenants(database, settings.tenant_by),
            workers=PostgresWorkers(database),
            freshness=Freshness(),
            dead_letters=dead_letters,
            replay=PostgresReplay(database),
            epochs=epochs,
            restore_watch=RestoreWatch(servers, epochs, registry, index),
            erasures=PostgresErasures(database, settings),
        )
    finally:
        servers.close()
        database.close()
