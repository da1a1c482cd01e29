"""Remove the pipeline from a database; memory_logs is not changed, and keeps its vectors.

Vectors in the pipeline's own table (``backup=table``) go with the schema.

The order is the design. Each step may be repeated, so an interrupted detach is run once more:

1. check that nothing works on the index, and that nothing of another owner depends on our schema
2. drop the triggers: no statement of the application runs our code any more, whatever happens next
3. delete the changes, and fence every worker that still holds some
4. where it is wanted, drop the collections, server by server, the marker of each last. Only the
   schema records which collections exist; so if a server cannot be reached, the detach ends here
5. drop the schema, in one transaction

After 2 and before 5, ``migrate`` attaches again as to a table whose triggers were lost; after 5, as
to a new table.
"""

import math
from dataclasses import dataclass

from memory_pipeline.admin.ports import (
    Attachment,
    ForgottenCollections,
    Registry,
    Servers,
    Workers,
)
from memory_pipeline.domain.types import Server
from memory_pipeline.errors import ChromaUnavailable, ContractError, StillInUse, Transient
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_in_batches
from memory_pipeline.maintenance.ports import DroppableCollections

log = get_logger("memory_pipeline.admin.detach")


@dataclass(frozen=True, slots=True)
class Removal:
    """What a detach would remove: triggers by name, and collections on servers by number.

    ``vectors``: in the pipeline's own table, which goes with the schema.
    """

    triggers: tuple[str, ...]
    collections: int
    servers: int
    vectors: int = 0


@dataclass(frozen=True, slots=True)
class Removed:
    """What a detach has removed; ``unreachable``: a line for each server that stopped it."""

    collections: int = 0
    unreachable: tuple[str, ...] = ()
    schema: bool = False


@dataclass(frozen=True, slots=True)
class Detach:
    """Removes the pipeline from one database."""

    postgres: Attachment
    workers: Workers
    registry: Registry
    servers: Servers
    index: DroppableCollections
    restore_watch: ForgottenCollections

    def check(self) -> Removal:
        """Check that a detach is possible; return what it would remove. Changes nothing.

        Raises:
            ContractError: nothing is attached, or something of another owner depends on it.
            StillInUse: a worker, a sync or a rebuild is running.

        """
        if not self.postgres.is_attached():
            raise ContractError("nothing of the pipeline is in this database")
        self._check_idle()
        self.postgres.check()
        servers = self._servers()
        return Removal(
            tuple(self.postgres.triggers()),
            sum(len(self.postgres.generations(s.id)) for s in servers),
            len(servers),
            self.postgres.vectors(),
        )

    def run(self, *, drop_collections: bool) -> Removed:
        """Detach. Raises as ``check`` does, PostgresUnavailable, and ContractError for locks."""
        self.check()  # 1
        self.postgres.stop_capture()  # 2
        self.postgres.stop_syncing()  # 3
        removed = self._drop_collections() if drop_collections else Removed()  # 4
        if removed.unreachable:
            return removed
        self.postgres.drop_schema()  # 5
        log.info("detached", collections=removed.collections)
        return Removed(removed.collections, schema=True)

    def _check_idle(self) -> None:
        workers = self.workers.healthy()
        if workers:
            where = ", ".join(f"{w.host}:{w.pid}" for w in workers)
            rests = max(w.quiet_seconds - w.silent_seconds for w in workers)
            killed = f"; if it was killed, it counts for {rests:.0f} s more" if rests > 0 else ""
            raise StillInUse(f"a worker is at work ({where}): stop it first{killed}")
        active = self.postgres.active_work()
        if active.rebuilds:
            raise StillInUse(f"{active.rebuilds} tenants are being rebuilt: stop that first")
        if active.leases:
            raise StillInUse(f"{active.leases} tenants are being synced: stop that first")

    def _servers(self) -> list[Server]:
        """Return the servers that may have collections: a lost or retired server has none."""
        return [s for s in self.registry.servers() if s.state == "ready"]

    def _drop_collections(self) -> Removed:
        problems = dict.fromkeys(self.servers.problems())
        dropped, unreachable = 0, []
        try:
            self.servers.check_identity()
        except Transient as error:
            log.info(
                "chroma_unreachable",
                reason=str(error),
                next="the schema is kept while a server cannot be reached; run detach again",
            )
        for server in self._servers():
            try:
                dropped += self._empty(server)
            except ChromaUnavailable as error:
                why = next((p for p in problems if server.url in p), str(error))
                unreachable.append(f"{server.url}: {why}")
        return Removed(dropped, tuple(unreachable))

    def _empty(self, server: Server) -> int:
        """Drop every collection of this installation on a server, and then its marker."""
        registered = self.postgres.generations(server.id)
        forgotten = self.restore_watch.forgotten(server.id)
        for generation in [*registered, *forgotten]:
            drop_in_batches(self.index, generation, math.inf)
            self.registry.dropped(generation.id)
        self.servers.remove_marker(server.id)
        return len(registered) + len(forgotten)
