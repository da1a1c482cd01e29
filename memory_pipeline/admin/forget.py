"""Forget a tenant: everything that the pipeline keeps of it, and the proof that it is gone.

The order is the design. Each step may be repeated; what is cut off, a worker continues:

1. the tenant's memories are read; where there are some, they have to be asked for
2. the erasure is recorded: from here on it is not given up
3. those memories are deleted, and no others: a memory that is written meanwhile is a new one
4. the fence, one transaction under the tenant's lease: its registration, changes, dead letters,
   rebuilds and results are deleted, and its generations are marked. A worker, a rebuild or a verify
   that still has the tenant in hand finds no lease, no part and no registration, and stores nothing
5. its collections are dropped. A late write to one of them fails: a collection is made by
   ``create_collection`` only, under the id of a generation that nobody knows any more
6. once no request from before the fence can land, every server is asked for collections that are
   named after the tenant; one that the registry does not know is dropped
7. the erasure is deleted
8. the proof: every place is looked at once more

A server that cannot be reached leaves the erasure at step 5 or 6. A worker never deletes memories:
an erasure that was cut off in step 3 waits for the command.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.admin.ports import (
    Erasures,
    KnownGenerations,
    Leases,
    Registrations,
    TenantCollections,
    TenantHistory,
    TenantMemories,
)
from memory_pipeline.admin.traces import NoHistory, postgres_places, reach_of_deletes
from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.erasure import Erasure, PendingErasure, Place
from memory_pipeline.domain.types import Generation, Server, TenantId
from memory_pipeline.errors import (
    MemoriesRemain,
    PipelineError,
    PostgresUnavailable,
    Transient,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_in_batches
from memory_pipeline.ports import Lease

log = get_logger("memory_pipeline.admin.forget")

LIST_SECONDS = 60.0
LEASE_POLL_SECONDS = 0.05
# A batch ends within seconds, and the lease of a killed worker, too.
LEASE_PATIENCE_SECONDS = 60.0
# A process that forgets a tenant tries it at least that often.
IDLE_SECONDS = 30.0
# A page at a time could take longer than a statement may.
DELETED_AT_ONCE = 1000
# In one call of the worker, whose other tasks wait.
RESUME_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Forget:
    """Forgets tenants, one at a time."""

    erasures: Erasures
    outbox: Leases
    registry: Registrations
    memories: TenantMemories
    index: TenantCollections
    generations: KnownGenerations
    log_tenants: str
    history: TenantHistory = field(default_factory=NoHistory)
    clock: Clock = SYSTEM_CLOCK

    def count(self, tenant: TenantId) -> int:
        """Count the memories that would be deleted."""
        return sum(map(len, self.memories.ids(tenant)))

    def run(self, tenant: TenantId, *, delete_memories: bool) -> Erasure:
        """Forget a tenant; return the proof. Waits for requests that may still land.

        Raises:
            MemoriesRemain: the tenant has memories, and ``delete_memories`` is False.
            ContractError: the table does not let the memories go, or hides some.
            Transient: the tenant's lease did not become free: a worker continues.

        """
        pages = list(self.memories.ids(tenant))  # 1
        if pages and not delete_memories:
            raise MemoriesRemain(
                f"tenant {tenant} has {sum(map(len, pages))} memories: delete them first, or have "
                "them deleted (--delete-memories)"
            )
        self.erasures.request(tenant)  # 2
        for page in pages:  # 3
            for at in range(0, len(page), DELETED_AT_ONCE):
                self.erasures.delete_memories(tenant, page[at : at + DELETED_AT_ONCE])
        self._fence(tenant)  # 4
        self.erasures.forget_orphaned_provenance()
        self._erase(tenant, until=math.inf)  # 5 to 7
        return self.prove(tenant)  # 8

    def resume(self, *, idle_seconds: float = IDLE_SECONDS) -> int:
        """Continue what was cut off or had to wait; return how many erasures ended.

        Deletes no memory. An erasure that cannot be continued now is left to the next call.

        Raises:
            PostgresUnavailable: nothing can be continued.

        """
        ended, until = 0, self.clock.monotonic() + RESUME_SECONDS
        pending = self.erasures.pending(idle_seconds=idle_seconds)
        if pending:
            self.erasures.forget_orphaned_provenance()
        for erasure in pending:
            if self.clock.monotonic() > until:
                break
            try:
                reason = self._resume(erasure, until)
            except PostgresUnavailable:
                raise
            except PipelineError as error:
                reason = str(error)
                self.erasures.postpone(erasure.tenant, reason)
            if reason:
                log.warning(
                    "erasure_postponed",
                    tenant=erasure.tenant,
                    reason=reason,
                    next="it is continued within a minute; `memory-pipeline status` shows it",
                )
            else:
                log.info("erasure_completed", tenant=erasure.tenant)
                ended += 1
        return ended

    def prove(self, tenant: TenantId) -> Erasure:
        """Look for a tenant in every place. Changes nothing but Dagster's list of partitions."""
        history = self.history.forget(tenant)
        places = (
            *postgres_places(self.erasures.traces(tenant)),
            *self._chroma_places(tenant),
            *history,
            *reach_of_deletes(self.log_tenants),
        )
        waits = self.erasures.pending(tenant)
        return Erasure(tenant, places, waits[0].waits_for or "it was cut off" if waits else "")

    # ---- 4: the fence

    def _fence(self, tenant: TenantId) -> None:
        self.registry.register(tenant)  # a registration to lock, also of a tenant without one
        self.erasures.fence(self._acquire_lease(tenant))

    def _acquire_lease(self, tenant: TenantId) -> Lease:
        until = self.clock.monotonic() + LEASE_PATIENCE_SECONDS
        while (lease := self.outbox.acquire_lease(tenant)) is None:
            if self.clock.monotonic() > until:
                raise Transient("the tenant's lease did not become free", sent=False)
            self.clock.sleep(LEASE_POLL_SECONDS)
        return lease

    # ---- 5 to 7: the collections

    def _resume(self, erasure: PendingErasure, until: float) -> str:
        """Continue an erasure; return why it has to wait, or nothing."""
        if not erasure.fenced and erasure.memories:
            reason = (
                f"{erasure.memories} memories are left: `memory-pipeline forget-tenant "
                "--delete-memories` deletes them"
            )
            self.erasures.postpone(erasure.tenant, reason)
            return reason
        if not erasure.fenced:
            self._fence(erasure.tenant)
        return self._erase(erasure.tenant, until=until)

    def _erase(self, tenant: TenantId, *, until: float) -> str:
        """Drop the collections of a fenced tenant; return why some have to wait, or nothing."""
        troubles = dict.fromkeys(self._drop_known(tenant, until))  # 5
        for erasure in self.erasures.pending(tenant):
            if math.isinf(until):
                self.clock.sleep(erasure.settles_seconds)
            elif erasure.settles_seconds:
                troubles["a request may still land"] = None
        troubles |= dict.fromkeys(self._drop_unknown(tenant, until))  # 6
        self.erasures.erased(tenant)
        if troubles or not self.erasures.complete(tenant):  # 7
            reason = "; ".join(troubles) or "it began again"
            self.erasures.postpone(tenant, reason)
            return reason
        return ""

    def _drop_known(self, tenant: TenantId, until: float) -> Iterator[str]:
        """Drop what the registry knows; yield a line for each that cannot be dropped now."""
        for generation in self.erasures.generations(tenant):
            try:
                if drop_in_batches(self.index, generation, until, self.clock):
                    self.erasures.erased(tenant, generation.id)
                else:
                    yield "a collection is being emptied"
            except Transient as error:
                yield str(error)

    def _drop_unknown(self, tenant: TenantId, until: float) -> Iterator[str]:
        """Drop what is named after the tenant and nobody knows; yield a line for each trouble."""
        for server in self._servers():
            try:
                for unknown in self.generations.unknown(self._named_after(server, tenant)):
                    stray = Generation(unknown, tenant, server.id, None, "", "", "retired")
                    if not drop_in_batches(self.index, stray, until, self.clock):
                        yield "a collection is being emptied"
            except Transient as error:
                yield str(error)

    def _servers(self) -> list[Server]:
        """Return the servers that may have collections: the data of a retired one is gone."""
        return [s for s in self.registry.servers() if s.state != "retired"]

    def _named_after(self, server: Server, tenant: TenantId) -> list[UUID]:
        # Its marker first: an empty volume in its place has no collections either.
        self.index.check_identity(server.id)
        return list(self.index.generations_of(server.id, tenant, seconds=LIST_SECONDS))

    # ---- 8: the proof

    def _chroma_places(self, tenant: TenantId) -> Iterator[Place]:
        for server in self.registry.servers():
            name, looked_for = f"Chroma at {server.url}", "collections named after the tenant"
            if server.state == "retired":
                yield Place(
                    name,
                    looked_for,
                    "kept",
                    detail="the server was retired because its data was gone",
                    next="where its disk still exists, wipe it",
                )
                continue
            try:
                found = len(self._named_after(server, tenant))
            except PipelineError as error:
                yield Place(
                    name,
                    looked_for,
                    "unknown",
                    detail=str(error),
                    next="bring the server back; a worker continues, or run this again",
                )
                continue
            yield Place(
                name,
                looked_for,
                "left" if found else "gone",
                found,
                next="stop what writes for the tenant, and run this again" if found else "",
            )
