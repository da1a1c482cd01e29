"""Words of the tests of rebuilds."""

from collections.abc import Callable

import psycopg

from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import (
    MemoryId,
    RebuildId,
    TenantId,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.rebuild.tenant import Rebuild
from memory_pipeline_tests.doubles import Killed
from memory_pipeline_tests.words import ADA, drained_well, remember

FIRST, SECOND = RebuildId("first"), RebuildId("second")
CHUNK = 5
# Small chunks, and short waits for whoever dies.
CHUNKS = {
    "rebuild_batch_size": CHUNK,
    "rebuild_batch_size_idle": CHUNK,
    "lease_seconds": 3.0,
    "request_seconds": 2.0,
}


def in_sync(pipeline: Pipeline, db: psycopg.Connection, *, memories: int = 12) -> list[MemoryId]:
    """Give ada memories and sync them; return their ids."""
    ids = [MemoryId(remember(db, "ada", f"memory number {n}")) for n in range(memories)]
    drained_well(pipeline)
    return ids


def rebuilt(pipeline: Pipeline, rebuild: RebuildId = FIRST, *, re_embed: bool = False) -> Rebuilt:
    """Rebuild ada to the end."""
    [one] = pipeline.rebuild().run(rebuild, [ADA], re_embed=re_embed)
    return one


def one_tenant(pipeline: Pipeline, rebuild: RebuildId = FIRST) -> Rebuild:
    """Ask for a rebuild of ada and return what does it."""
    pipeline.rebuilds.request(rebuild, [ADA], re_embed=False)
    return pipeline.rebuild().rebuild


def let_ownership_end(db: psycopg.Connection) -> None:
    """Let the time pass for which a dead process still owns its part, and its lease."""
    db.execute("UPDATE memory_pipeline.rebuild SET owned_until = clock_timestamp()")
    db.execute("UPDATE memory_pipeline.tenant SET lease_until = clock_timestamp()")


def assert_true(pipeline: Pipeline, tenant: TenantId = ADA) -> None:
    """Assert that the live collection equals Postgres, and that every document is found."""
    verified = pipeline.verify().run(tenant, sample=None)
    assert verified.findings == ()
    assert verified.documents == verified.memories == pipeline.memories.count(tenant)


def after_chunks(number: int, act: Callable[[], None]) -> Callable[[int], None]:
    """Return a progress that acts when so many chunks are done."""
    seen = [0]

    def progress(_: int) -> None:
        seen[0] += 1
        if seen[0] == number:
            act()

    return progress


def kill() -> None:
    """End here."""
    raise Killed
