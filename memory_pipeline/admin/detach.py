"""Take the pipeline off again; memory_logs stays as it is, with the vectors in it.

The order is the design. Each step may be taken again, so one that was cut off is run once more:

1. check: nobody works on the index, and nothing of anybody else hangs on our schema
2. the triggers go: the application is rid of us, whatever happens after
3. what waits is forgotten, and whoever has something in hand is fenced
4. where it is asked for, the collections go, server by server, the marker of each last. While the
   registry stands it is known which; so where a server cannot be reached, it ends here
5. the schema goes, in one transaction

After 2 and before 5, ``migrate`` attaches again as to a table whose triggers were lost; after 5, as
to one that it has never seen.
"""

import math
from dataclasses import dataclass

from memory_pipeline.domain.types import Server
from memory_pipeline.errors import ChromaUnavailable, ContractError, StillInUse, Transient
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_in_batches
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.detach import PostgresDetach

log = get_logger("memory_pipeline.admin.detach")


@dataclass(frozen=True, slots=True)
class Removal:
    """What a detach would remove."""

    triggers: tuple[str, ...]
    collections: int
    servers: int


@dataclass(frozen=True, slots=True)
class Removed:
    """What a detach has removed; and which servers could not be reached, each with why."""

    collections: int = 0
    unreachable: tuple[str, ...] = ()
    schema: bool = False


class Detach:
    """Takes the pipeline off one database."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._postgres = PostgresDetach(pipeline.database)

    def look(self) -> Removal:
        """Check that it can be done; tell what would go. Changes nothing.

        Raises:
            ContractError: there is nothing to remove, or something of somebody else's would go.
            StillInUse: a live process, a sync or a rebuild is at work.

        """
        if not self._postgres.is_attached():
            raise ContractError("nothing of the pipeline is in this database")
        self._check_idle()
        self._postgres.check()
        servers = self._servers()
        return Removal(
            tuple(self._postgres.triggers()),
            sum(len(self._postgres.generations(s.id)) for s in servers),
            len(servers),
        )

    def run(self, *, drop_collections: bool) -> Removed:
        """Remove it. Raises as ``look`` does, PostgresUnavailable, and ContractError for locks."""
        self.look()  # 1
        self._postgres.stop_capture()  # 2
        self._postgres.stop_syncing()  # 3
        removed = self._drop_collections() if drop_collections else Removed()  # 4
        if removed.unreachable:
            return removed
        self._postgres.drop_schema()  # 5
        log.info("detached", collections=removed.collections)
        return Removed(removed.collections, schema=True)

    def _check_idle(self) -> None:
        live = self._pipeline.workers.healthy()
        if live:
            where = ", ".join(f"{w.host}:{w.pid}" for w in live)
            raise StillInUse(f"a live process is at work ({where}): stop it first")
        under_way = self._postgres.under_way()
        if under_way.rebuilds:
            raise StillInUse(f"{under_way.rebuilds} tenants are being rebuilt: stop that first")
        if under_way.leases:
            raise StillInUse(f"{under_way.leases} tenants are being synced: stop that first")

    def _servers(self) -> list[Server]:
        """Return the servers that may hold something: one that was lost or given up does not."""
        return [s for s in self._pipeline.registry.servers() if s.state == "ready"]

    def _drop_collections(self) -> Removed:
        troubles = dict.fromkeys(self._pipeline.servers.problems())
        gone, unreachable = 0, []
        try:
            self._pipeline.servers.check_identity()
        except Transient as error:
            log.info("no_server", reason=str(error))
        for server in self._servers():
            try:
                gone += self._empty(server)
            except ChromaUnavailable as error:
                why = next((t for t in troubles if server.url in t), str(error))
                unreachable.append(f"{server.url}: {why}")
        return Removed(gone, tuple(unreachable))

    def _empty(self, server: Server) -> int:
        """Drop everything of this installation on a server, and then its marker."""
        pipeline = self._pipeline
        known = self._postgres.generations(server.id)
        forgotten = pipeline.restore_watch.forgotten(server.id)
        for generation in [*known, *forgotten]:
            drop_in_batches(pipeline.index, generation, math.inf)
            pipeline.registry.dropped(generation.id)
        pipeline.servers.remove_marker(server.id)
        return len(known) + len(forgotten)
