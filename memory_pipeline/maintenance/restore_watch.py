"""Watches whether Postgres went back in time, and clears away what only a forgotten state knew.

What it looks for and what follows stands in domain/epoch.py; who brings the tenants right again is
whoever syncs them. Searches go on meanwhile: what they return is read from Postgres anyway.
"""

import time
from dataclasses import dataclass
from uuid import UUID

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.chroma.servers import Servers
from memory_pipeline.domain.types import Generation, TenantId
from memory_pipeline.errors import ChromaUnavailable, PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_in_batches
from memory_pipeline.postgres.epochs import PostgresEpochs
from memory_pipeline.postgres.registry import PostgresRegistry

log = get_logger("memory_pipeline.maintenance.restore_watch")

# The shorter, the less can be forgotten unnoticed; each costs a write in Postgres and one a server.
EPOCH_SECONDS = 30.0
LOOK_SECONDS = 10.0
# Another database that goes on with such a collection has written the markers long before.
FORGOTTEN_SECONDS = 3600.0
SWEEP_SECONDS = 10.0
LIST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RestoreWatch:
    """Postgres as the source of everything, seen over time."""

    servers: Servers
    epochs: PostgresEpochs
    registry: PostgresRegistry
    index: ChromaIndex

    def watch(self, *, seconds: float = EPOCH_SECONDS) -> None:
        """Compare Postgres with the markers, tell them of a new epoch, clear away. Once.

        Args:
            seconds: the age of an epoch that ends it; 0 ends it now.

        Raises:
            PostgresUnavailable: nothing can be said.

        """
        self.servers.stamp(seconds=seconds)
        if self.epochs.sweep_is_due(seconds=FORGOTTEN_SECONDS):
            self.sweep()

    def sweep(self) -> int:
        """Drop collections of this installation that its registry does not know; count them.

        A generation is noted before its collection is created, so none that this state of Postgres
        has begun is ever unknown. What another installation or anybody else made is left alone.
        """
        until = time.monotonic() + SWEEP_SECONDS
        gone, whole = 0, True
        ready = {s.id for s in self.registry.servers() if s.state == "ready"}
        for server in ready:
            try:
                for generation in self.forgotten(server):
                    if not drop_in_batches(self.index, generation, until):
                        return gone
                    log.info("forgotten_dropped", collection=generation.collection)
                    gone += 1
            except PipelineError as error:
                log.warning("not_swept", server=str(server), reason=str(error))
                whole = False
        if whole:
            self.epochs.record_sweep()
        return gone

    def forgotten(self, server: UUID) -> list[Generation]:
        """Return the collections of this installation on a server that the registry does not know.

        Raises:
            ChromaUnavailable: it cannot be asked.

        """
        if server not in self.servers.usable():
            raise ChromaUnavailable(f"Chroma server {server} is not in use now", sent=False)
        mine = self.index.generations(server, self.registry.installation(), seconds=LIST_SECONDS)
        return [
            Generation(unknown, TenantId(""), server, None, "", "", "retired")
            for unknown in self.epochs.unknown(mine)
        ]
