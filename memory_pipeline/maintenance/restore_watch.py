"""Watch for a Postgres that went back in time (a restore, a failover), once in each call.

Five files do it together. The order of events, and the file that does each step:

1. the worker, a Dagster sensor or ``memory-pipeline sync`` calls ``watch`` (here)
2. the marker of each Chroma server in use is read: ``chroma/servers.py``, ``stamp``
3. its stamps, the newest nonces that Chroma has seen, are compared with the nonces that Postgres
   knows and with the location of the database: ``chroma/epoch_stamps.py`` hands them over,
   ``postgres/epochs.py`` reads the state of Postgres, ``domain/epoch.py`` decides
4. on a sign of a rollback: in one transaction, ``postgres/epochs.py`` records the sign, raises
   every token, which fences the workers of the forgotten state, marks every tenant unproven and
   begins an epoch
5. without a sign, and where the newest epoch is old enough: the next epoch is committed in Postgres
   and only then written to the markers, by ``postgres/epochs.py`` and ``chroma/epoch_stamps.py``.
   Postgres first: a nonce in a marker that Postgres has never known would be a false alarm
6. the next sync of each unproven tenant compares all of it with Chroma (``sync/tenant.py``, a
   reset), once no request of the forgotten state can arrive any more. Searches continue: their
   results are read from Postgres
7. an hour after a rollback, the collections that only the forgotten state knew are dropped:
   ``sweep`` (here)

Steps 2 to 4 run also whenever servers are identified: ``chroma/servers.py``, ``check_identity``.
"""

from dataclasses import dataclass
from uuid import UUID

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.types import Generation, TenantId
from memory_pipeline.errors import ChromaUnavailable, PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_in_batches
from memory_pipeline.maintenance.ports import (
    Epochs,
    ListedCollections,
    RegisteredServers,
    StampedServers,
)

log = get_logger("memory_pipeline.maintenance.restore_watch")

# A shorter epoch leaves less time in which a rollback stays unnoticed; each costs a write in
# Postgres and one a server.
EPOCH_SECONDS = 30.0
# Another database that still uses such a collection has written the markers long before.
FORGOTTEN_SECONDS = 3600.0
SWEEP_SECONDS = 10.0
LIST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RestoreWatch:
    """Compares Postgres with what Chroma has seen of it. Thread-safe."""

    servers: StampedServers
    epochs: Epochs
    registry: RegisteredServers
    index: ListedCollections
    clock: Clock = SYSTEM_CLOCK

    def watch(self, *, seconds: float = EPOCH_SECONDS) -> None:
        """Compare Postgres with the markers, begin an epoch, sweep; each where it is due.

        Args:
            seconds: the age of an epoch that ends it; 0 ends it now.

        Raises:
            PostgresUnavailable: no comparison is possible.

        """
        self.servers.stamp(seconds=seconds)
        if self.epochs.sweep_is_due(seconds=FORGOTTEN_SECONDS):
            self.sweep()

    def sweep(self) -> int:
        """Drop this installation's collections that the registry does not know; count them.

        A generation is registered before its collection is created, so every collection that this
        state of Postgres has begun is known. Collections of others are not touched.
        """
        until = self.clock.monotonic() + SWEEP_SECONDS
        dropped, complete = 0, True
        ready = {s.id for s in self.registry.servers() if s.state == "ready"}
        for server in ready:
            try:
                for generation in self.forgotten(server):
                    if not drop_in_batches(self.index, generation, until, self.clock):
                        return dropped
                    log.info(
                        "forgotten_collection_dropped",
                        generation=str(generation.id),
                        server=str(server),
                    )
                    dropped += 1
            except PipelineError as error:
                log.warning(
                    "sweep_failed",
                    server=str(server),
                    reason=str(error),
                    next="the next watch sweeps every server again",
                )
                complete = False
        if complete:
            self.epochs.record_sweep()
        return dropped

    def forgotten(self, server: UUID) -> list[Generation]:
        """Return this installation's collections on a server that the registry does not know.

        Raises:
            ChromaUnavailable: the server cannot be reached, or is not in use.

        """
        if server not in self.servers.usable():
            raise ChromaUnavailable(f"Chroma server {server} is not in use now", sent=False)
        ours = self.index.generations(server, self.registry.installation(), seconds=LIST_SECONDS)
        return [
            Generation(unknown, TenantId(""), server, None, "", "", "retired")
            for unknown in self.epochs.unknown(ours)
        ]
