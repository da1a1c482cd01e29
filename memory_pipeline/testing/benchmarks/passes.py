"""The duration of a pass over few changes, and of a pass without changes.

The pass is that of ``sync`` and of Dagster's runs, in this process, after one that warms it up.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from pgvector.psycopg import register_vector

from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.types import Memory, TenantId
from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.rows import Load, new_memories
from memory_pipeline.testing.benchmarks.services import fill_database, settings_for, with_own_home
from memory_pipeline.testing.benchmarks.worker_process import (
    build_tenants,
    delete_memory,
    insert_memory,
    update_memory,
)
from memory_pipeline.testing.machine import median
from memory_pipeline.verify.tenants import verify_all

LOAD = Load(rows=5_000, tenants=10)
# One in a hundred of a tenant's 500 memories; as many are inserted as deleted.
UPDATES, INSERTS, DELETES = 3, 1, 1
PASSES = 5
IDLE_PASSES = 20
SOME = "SELECT id FROM public.memory_logs WHERE user_id = %s ORDER BY md5((id + %s)::text) LIMIT %s"


def time_passes(home: Path, postgres: EmbeddedPostgres, settings: Settings) -> dict[str, object]:
    """Time passes over one change in a hundred memories, then passes without changes."""
    fill_database(postgres, settings, LOAD, "pass")
    server = start_chroma(home / "pass", home / "pass.log")
    try:
        own = with_own_home(settings_for(settings, postgres, "pass", [server.url]), home)
        with opened(own) as pipeline:
            tenants = build_tenants(pipeline)
            fresh = new_memories(LOAD)
            seconds: list[float] = []
            for number in range(PASSES + 1):
                changes = _change(pipeline.database.url, tenants, fresh, number)
                seconds.append(_pass(pipeline))
            verdicts = list(verify_all(pipeline.verify(), tenants))
            before = _files(home / "pass")
            idle = [_pass(pipeline) for _ in range(IDLE_PASSES)]
            wrote = _files(home / "pass") != before
    finally:
        server.stop()
    findings = sum(len(v.findings) if isinstance(v, Verified) else 1 for v in verdicts)
    return {
        "pass_tenants": LOAD.tenants,
        "pass_memories": LOAD.rows,
        "pass_changes": changes,
        "pass_seconds": median(seconds[1:]),  # the first one warms up
        "pass_runs": [round(s, 3) for s in seconds],
        "pass_findings": findings,
        "idle_pass_ms": median([s * 1e3 for s in idle]),
        "idle_pass_wrote": wrote,
    }


def _change(url: str, tenants: Sequence[TenantId], fresh: Iterator[Memory], number: int) -> int:
    """Change one memory in a hundred of each tenant, one statement a commit; return how many."""
    with psycopg.connect(url, autocommit=True) as connection:
        register_vector(connection)
        for tenant in tenants:
            few = (tenant, number, UPDATES + DELETES)
            for at, (memory_id,) in enumerate(connection.execute(SOME, few).fetchall()):
                if at < UPDATES:
                    update_memory(connection, memory_id, _for(tenant, fresh))
                else:
                    delete_memory(connection, memory_id)
            for _ in range(INSERTS):
                insert_memory(connection, _for(tenant, fresh))
    return len(tenants) * (UPDATES + INSERTS + DELETES)


def _for(tenant: TenantId, fresh: Iterator[Memory]) -> Memory:
    return next(memory for memory in fresh if memory.tenant == tenant)


def _pass(pipeline: Pipeline) -> float:
    began = time.perf_counter()
    outcomes = list(pipeline.drain().run())
    seconds = time.perf_counter() - began
    if wrong := [o for o in outcomes if o.verdict != "done"]:
        raise RuntimeError(f"{len(wrong)} tenants were not synced: {wrong[0].reason}")
    return seconds


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and the modification time of each of a server's files."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
