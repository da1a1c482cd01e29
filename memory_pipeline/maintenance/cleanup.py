"""Drop collections that have ended, and retire those of tenants without memories."""

from uuid import UUID

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.types import Generation
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.ports import (
    DroppableCollections,
    EmptyTenants,
    EndedGenerations,
    Leases,
)

DROP_SECONDS = 60.0
DROPS_AT_ONCE = 20
SECONDS_AT_ONCE = 10.0
RETIRED_AT_ONCE = 100
# The oldest come first, and those of an unreachable server stay; others come after them.
MAX_LISTED = 10_000

log = get_logger("memory_pipeline.maintenance.cleanup")


def drop_retired(
    registry: EndedGenerations,
    index: DroppableCollections,
    *,
    grace_seconds: float,
    limit: int = DROPS_AT_ONCE,
    seconds: float = SECONDS_AT_ONCE,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Drop up to ``limit`` ended collections in about ``seconds``; return how many were dropped.

    A search that resolved its generation before the flip may use it for ``grace_seconds``; a late
    write to a dropped collection has no effect. A collection that cannot be dropped now, or not
    completely, is left to the next call, and delays no other. Raises PostgresUnavailable.
    """
    dropped, until = 0, clock.monotonic() + seconds
    unreachable: set[UUID] = set()
    for generation in registry.droppable(grace_seconds=grace_seconds, limit=MAX_LISTED):
        if dropped == limit or clock.monotonic() > until:
            break
        if generation.server in unreachable:
            continue
        try:
            if not drop_in_batches(index, generation, until, clock):
                break
        except PipelineError as error:
            if isinstance(error, ChromaUnavailable):
                unreachable.add(generation.server)
            log.warning(
                "collection_drop_failed",
                tenant=generation.tenant,
                generation=str(generation.id),
                server=str(generation.server),
                reason=str(error),
                next="the collection is kept, and the next cleanup tries again",
            )
            continue
        registry.dropped(generation.id)
        dropped += 1
    return dropped


def retire_empty(
    tenants: EmptyTenants, outbox: Leases, *, seconds: float, limit: int = RETIRED_AT_ONCE
) -> int:
    """Retire collections of tenants that have had no memory for so long; return how many.

    Each costs Chroma memory and four open files. Such a tenant stays registered: its next memory
    begins a new collection. Nothing is decided before the lease is held: what is pending, failed or
    being rebuilt keeps the collection, and so does a memory that has come since. ``drop_retired``
    drops the collection later. Raises PostgresUnavailable, and ContractError where Postgres hides
    rows from this role: a memory that one may not see is not gone.
    """
    if not seconds:
        return 0
    retired = 0
    for tenant in tenants.empty_tenants(seconds=seconds, limit=limit):
        lease = outbox.acquire_lease(tenant)
        if lease is None:  # it is being synced: it is not empty, or the next call finds it
            continue
        try:
            done = tenants.retire_empty(lease)
        finally:
            tenants.return_lease(lease)
        if done:
            retired += 1
            log.info("empty_collection_retired", tenant=tenant)
    return retired


def drop_in_batches(
    index: DroppableCollections, generation: Generation, until: float, clock: Clock = SYSTEM_CLOCK
) -> bool:
    """Drop a collection, or empty it until ``until``; return whether it was dropped.

    A large collection is emptied in batches first: while Chroma drops a collection, every search
    and write of its server waits.
    """
    small = _shrink(index, generation, until, clock)
    if small:
        index.drop(generation, seconds=DROP_SECONDS)
    return small


def _shrink(
    index: DroppableCollections, generation: Generation, until: float, clock: Clock
) -> bool:
    """Empty a large collection in batches; return whether it is small, or too damaged to read.

    Lists are deleted of a small one as well: they outlive a collection that is dropped with them.
    """
    if generation.state != "retired":
        return True
    try:
        while index.delete_batch(generation, seconds=DROP_SECONDS):
            if clock.monotonic() > until:
                return False
    except Corrupt:
        return True
    return True
