"""Drop the collections of generations that have ended, once nobody can be using them any more."""

from uuid import UUID

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.types import Generation
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.registry import PostgresRegistry

DROP_SECONDS = 60.0
DROPS_AT_ONCE = 20
SECONDS_AT_ONCE = 10.0
# Those of a server that is away stand first for as long as it is.
MOST_LOOKED_AT = 10_000

log = get_logger("memory_pipeline.maintenance.cleanup")


def drop_retired(
    registry: PostgresRegistry,
    index: ChromaIndex,
    *,
    grace_seconds: float,
    limit: int = DROPS_AT_ONCE,
    seconds: float = SECONDS_AT_ONCE,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Drop up to ``limit`` ended collections, for some ``seconds``; return how many are gone.

    A search that resolved its generation before the flip may go on for ``grace_seconds``; a late
    write to a dropped collection finds nothing. One that cannot be dropped now, or not wholly, is
    left for the next time, and holds up no other. Raises PostgresUnavailable.
    """
    gone, until = 0, clock.monotonic() + seconds
    away: set[UUID] = set()
    for generation in registry.droppable(grace_seconds=grace_seconds, limit=MOST_LOOKED_AT):
        if gone == limit or clock.monotonic() > until:
            break
        if generation.server in away:
            continue
        try:
            if not drop_in_batches(index, generation, until, clock):
                break
        except PipelineError as error:
            if isinstance(error, ChromaUnavailable):
                away.add(generation.server)
            log.warning("not_dropped", collection=generation.collection, reason=str(error))
            continue
        registry.dropped(generation.id)
        gone += 1
    return gone


def drop_in_batches(
    index: ChromaIndex, generation: Generation, until: float, clock: Clock = SYSTEM_CLOCK
) -> bool:
    """Drop a collection, unless emptying it takes longer; False: go on with it another time."""
    thin = _is_thin(index, generation, until, clock)
    if thin:
        index.drop(generation, seconds=DROP_SECONDS)
    return thin


def _is_thin(index: ChromaIndex, generation: Generation, until: float, clock: Clock) -> bool:
    """Empty a large collection little by little; a damaged one is not even read."""
    if generation.state != "retired":
        return True
    try:
        while index.delete_batch(generation, seconds=DROP_SECONDS):
            if clock.monotonic() > until:
                return False
    except Corrupt:
        return True
    return True
